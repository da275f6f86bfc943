-- The tables of the mixed load: every way of identifying a row, long values
-- that are stored out of line, and a filter for rows that must not be synced.
CREATE TABLE owners (
    id     text PRIMARY KEY,
    region text NOT NULL,
    active boolean NOT NULL
);

CREATE TABLE members (
    team  text NOT NULL,
    owner text NOT NULL,
    role  text,
    PRIMARY KEY (team, owner)
);

CREATE TABLE items (
    id     bigint PRIMARY KEY,
    owner  text,
    kind   text NOT NULL,
    n      integer,
    title  text,
    big    text,
    amount numeric(12, 2),
    flag   boolean
);
ALTER TABLE items ALTER COLUMN big SET STORAGE EXTERNAL;

-- The key's column order differs from the table's.
CREATE TABLE docs (
    part integer NOT NULL,
    name text NOT NULL,
    team text,
    body text,
    PRIMARY KEY (name, part)
);
ALTER TABLE docs ALTER COLUMN body SET STORAGE EXTERNAL;

CREATE TABLE notes (
    id    integer PRIMARY KEY,
    owner text,
    body  text
);
ALTER TABLE notes REPLICA IDENTITY FULL;
ALTER TABLE notes ALTER COLUMN body SET STORAGE EXTERNAL;

CREATE TABLE tagged (
    code  text NOT NULL,
    owner text,
    n     integer,
    extra text
);
CREATE UNIQUE INDEX tagged_code ON tagged (code);
ALTER TABLE tagged REPLICA IDENTITY USING INDEX tagged_code;
ALTER TABLE tagged ALTER COLUMN extra SET STORAGE EXTERNAL;

-- The table that is truncated often.
CREATE TABLE events (
    id    uuid PRIMARY KEY,
    owner text,
    n     integer
);

-- The table of the large transactions.
CREATE TABLE bulk (
    id    uuid PRIMARY KEY,
    owner text,
    n     integer
);

-- Every transaction that changes balances keeps their sum.
CREATE TABLE accounts (
    id      integer PRIMARY KEY,
    balance bigint NOT NULL
);
INSERT INTO accounts SELECT g, 1000 FROM generate_series(1, 20) g;

-- Values whose text depends on settings of the session, in a database that sets
-- them in unusual ways.
CREATE TYPE mood AS ENUM ('glad', 'so-so', 'sad "!"');
CREATE TABLE typed (
    id   integer PRIMARY KEY,
    at   timestamptz,
    day  date,
    f    float8,
    tags text[],
    doc  jsonb,
    feel mood,
    span interval,
    blob bytea
);
DO $do$
DECLARE
    setting text;
BEGIN
    FOREACH setting IN ARRAY ARRAY['timezone = ''Asia/Kathmandu''', 'datestyle = ''German''', 'intervalstyle = ''iso_8601''',
        'extra_float_digits = -3', 'bytea_output = ''escape''', 'default_transaction_isolation = ''repeatable read''']
    LOOP
        EXECUTE format('ALTER DATABASE %I SET ', current_database()) || setting;
    END LOOP;
END $do$;

CREATE TABLE marks (
    id text PRIMARY KEY,
    n  bigint NOT NULL
);

-- Not in the rules.
CREATE TABLE unrelated (id bigint PRIMARY KEY, v text);

INSERT INTO owners SELECT 'o' || g, 'r' || g % 3, g % 4 <> 0 FROM generate_series(1, 12) g;
INSERT INTO members SELECT 't' || t, 'o' || o, CASE WHEN o % 2 = 0 THEN 'admin' END
FROM generate_series(1, 5) t, generate_series(1, 12) o WHERE (t + o) % 3 = 0;
