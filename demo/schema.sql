-- The to-do demo's schema, as an app of one's own would have it: nothing in it
-- is for Millrace.

CREATE TABLE users (
    id   text PRIMARY KEY,
    name text NOT NULL
);

CREATE TABLE lists (
    id         uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    name       text NOT NULL,
    owner_id   text NOT NULL REFERENCES users ON DELETE CASCADE,
    created_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX ON lists (owner_id);

CREATE TABLE list_members (
    list_id uuid NOT NULL REFERENCES lists ON DELETE CASCADE,
    user_id text NOT NULL REFERENCES users ON DELETE CASCADE,
    PRIMARY KEY (list_id, user_id)
);
CREATE INDEX ON list_members (user_id);

CREATE TABLE todos (
    id           uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    list_id      uuid NOT NULL REFERENCES lists ON DELETE CASCADE,
    title        text NOT NULL,
    completed    boolean NOT NULL DEFAULT false,
    created_by   text REFERENCES users ON DELETE CASCADE,
    created_at   timestamptz NOT NULL DEFAULT now(),
    completed_at timestamptz
);
CREATE INDEX ON todos (list_id);
