-- The to-do demo's data: 8 users, 40 lists, 400 todos; the same rows every
-- time. Identifiers count up, so that they are easy to recognise:
-- lists are 00000000-0000-4000-a000-0000000000NN, todos …-b000-….

INSERT INTO users (id, name) VALUES
    ('alice', 'Alice'), ('bob', 'Bob'), ('carol', 'Carol'), ('dave', 'Dave'),
    ('erin', 'Erin'), ('frank', 'Frank'), ('grace', 'Grace'), ('heidi', 'Heidi');

-- Five lists for each user: list n belongs to user (n - 1) mod 8.
INSERT INTO lists (id, name, owner_id, created_at)
SELECT format('00000000-0000-4000-a000-%s', lpad(n::text, 12, '0'))::uuid,
       (ARRAY['Groceries', 'Home', 'Work', 'Holiday', 'Someday'])[(n - 1) / 8 + 1],
       (ARRAY['alice', 'bob', 'carol', 'dave', 'erin', 'frank', 'grace', 'heidi'])[(n - 1) % 8 + 1],
       timestamptz '2026-01-01 08:00:00+00' + n * interval '1 hour'
FROM generate_series(1, 40) AS n;

-- Every list is shared with the owner's neighbour, every third one with the
-- next but one as well.
INSERT INTO list_members (list_id, user_id)
SELECT l.id, m.id
FROM (SELECT id, owner_id, row_number() OVER (ORDER BY id) AS n FROM lists) AS l
JOIN (SELECT id, row_number() OVER (ORDER BY id) AS n FROM users) AS o ON o.id = l.owner_id
JOIN (SELECT id, row_number() OVER (ORDER BY id) AS n FROM users) AS m
  ON m.n = o.n % 8 + 1 OR (l.n % 3 = 0 AND m.n = (o.n + 1) % 8 + 1);

-- Ten todos for each list, every third one done.
INSERT INTO todos (id, list_id, title, completed, created_by, created_at, completed_at)
SELECT format('00000000-0000-4000-b000-%s', lpad(n::text, 12, '0'))::uuid,
       l.id,
       (ARRAY['Buy bread', 'Water the plants', 'Call the dentist', 'Fix the bike', 'Book a train',
              'Write a letter', 'Pay the rent', 'Read a book', 'Back up the photos', 'Sharpen the knives'])[(n - 1) % 10 + 1],
       n % 3 = 0,
       l.owner_id,
       timestamptz '2026-01-03 08:00:00+00' + n * interval '5 minutes',
       CASE WHEN n % 3 = 0 THEN timestamptz '2026-01-10 08:00:00+00' + n * interval '5 minutes' END
FROM generate_series(1, 400) AS n
JOIN lists AS l ON l.id = format('00000000-0000-4000-a000-%s', lpad(((n - 1) / 10 + 1)::text, 12, '0'))::uuid;
