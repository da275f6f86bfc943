-- What streams.yaml must produce, as (bucket, type, id, data).
SELECT 'marks|0[]' AS bucket, 'marks' AS type, id, '{"id":' || to_json(id) || ',"n":' || n || '}' AS data FROM marks
UNION ALL
SELECT 'accounts|0[]', 'accounts', id::text, '{"id":' || id || ',"balance":' || balance || '}' FROM accounts
UNION ALL
SELECT 'my_items|0[' || to_json(owner) || ']', 'items', id::text,
       '{"id":' || id || ',"title":' || coalesce(to_json(title)::text, 'null') || ',"big":' || coalesce(to_json(big)::text, 'null') || '}'
FROM items WHERE owner IS NOT NULL AND kind <> 'hidden'
UNION ALL
SELECT 'items_of_kind|0[' || to_json(kind) || ']', 'items', id::text,
       '{"id":' || id || ',"n":' || coalesce(n::text, 'null') || ',"amount":' || coalesce('"' || amount || '"', 'null') || '}'
FROM items WHERE flag
UNION ALL
SELECT 'my_events|0[' || to_json(owner) || ']', 'events', id::text,
       '{"id":"' || id || '","owner":' || to_json(owner) || ',"n":' || coalesce(n::text, 'null') || '}'
FROM events WHERE owner IS NOT NULL
UNION ALL
SELECT 'my_bulk|0[' || to_json(owner) || ']', 'bulk', id::text, '{"id":"' || id || '","n":' || n || '}'
FROM bulk WHERE owner IS NOT NULL
UNION ALL
SELECT 'team_docs|0[' || to_json(team) || ']', 'docs', name || '.' || part,
       '{"id":' || to_json(name || '.' || part) || ',"team":' || to_json(team) || ',"body":' || coalesce(to_json(body)::text, 'null') || '}'
FROM docs WHERE team IS NOT NULL
UNION ALL
SELECT 'my_notes|0[' || to_json(owner) || ']', 'notes', id::text,
       '{"id":' || id || ',"owner":' || to_json(owner) || ',"body":' || coalesce(to_json(body)::text, 'null') || '}'
FROM notes WHERE owner IS NOT NULL
