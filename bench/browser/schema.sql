-- ROWS is replaced by the number of rows. One is about 300 bytes as JSON.
CREATE TABLE items (
    id       text PRIMARY KEY,
    name     text NOT NULL,
    note     text NOT NULL,
    quantity int NOT NULL,
    price    float8 NOT NULL,
    shelf    text NOT NULL
);

INSERT INTO items
SELECT 'item-' || lpad(n::text, 32, '0'), 'The name of item ' || n, repeat(md5(n::text), 4), n % 100, n * 0.25, 'shelf ' || n % 50
FROM generate_series(1, ROWS) AS n;
