-- What buckets.yaml must produce, as (bucket, type, id, data). Written by hand
-- from the rules' meaning; text is compared exactly.
WITH item AS (
    SELECT owner, id::text AS id,
           '{"id":' || id || ',"owner":' || to_json(owner) || ',"kind":' || to_json(kind)
           || ',"n":' || coalesce(n::text, 'null') || ',"title":' || coalesce(to_json(title)::text, 'null')
           || ',"big":' || coalesce(to_json(big)::text, 'null')
           || ',"amount":' || coalesce('"' || amount || '"', 'null')
           || ',"flag":' || coalesce(flag::int::text, 'null') || '}' AS data
    FROM items WHERE owner IS NOT NULL AND kind <> 'hidden'
)
SELECT 'marks[]' AS bucket, 'marks' AS type, id, '{"id":' || to_json(id) || ',"n":' || n || '}' AS data FROM marks
UNION ALL
SELECT 'accounts[]', 'accounts', id::text, '{"id":' || id || ',"balance":' || balance || '}' FROM accounts
UNION ALL
SELECT 'typed[]', 'typed', id::text, '{"id":' || id
       || ',"at":' || coalesce(to_json(to_char(at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'))::text, 'null')
       || ',"day":' || coalesce(to_json(to_char(day, 'YYYY-MM-DD'))::text, 'null')
       || ',"f":' || coalesce(f::text || CASE WHEN f = trunc(f) THEN '.0' ELSE '' END, 'null')
       || ',"tags":' || coalesce(to_json(to_json(tags)::text)::text, 'null')
       || ',"doc":' || coalesce(to_json(doc::text)::text, 'null')
       || ',"feel":' || coalesce(to_json(feel)::text, 'null')
       || ',"span":' || coalesce(to_json(span::text)::text, 'null') || '}'
FROM typed
UNION ALL
SELECT 'by_owner[' || to_json(owner) || ']', 'items', id, data FROM item
UNION ALL
SELECT 'by_owner[' || to_json(owner) || ']', 'events', id::text,
       '{"id":"' || id || '","owner":' || to_json(owner) || ',"n":' || coalesce(n::text, 'null') || '}'
FROM events WHERE owner IS NOT NULL
UNION ALL
SELECT 'by_owner[' || to_json(owner) || ']', 'bulk', id::text, '{"id":"' || id || '","n":' || n || '}'
FROM bulk WHERE owner IS NOT NULL
UNION ALL
SELECT 'by_owner[' || to_json(owner) || ']', 'notes', id::text,
       '{"id":' || id || ',"content":' || coalesce(to_json(body)::text, 'null') || '}'
FROM notes WHERE owner IS NOT NULL
UNION ALL
SELECT 'by_owner[' || to_json(owner) || ']', 'tagged', code,
       '{"id":' || to_json(code) || ',"n":' || coalesce(n::text, 'null') || ',"extra":' || coalesce(to_json(extra)::text, 'null') || '}'
FROM tagged WHERE owner IS NOT NULL
UNION ALL
SELECT 'by_team[' || to_json(team) || ']', 'docs', name || '.' || part,
       '{"id":' || to_json(name || '.' || part) || ',"part":' || part || ',"name":' || to_json(name)
       || ',"team":' || to_json(team) || ',"body":' || coalesce(to_json(body)::text, 'null') || '}'
FROM docs WHERE team IS NOT NULL
UNION ALL
SELECT 'by_team[' || to_json(team) || ']', 'members', owner || '@' || team,
       '{"id":' || to_json(owner || '@' || team) || ',"role":' || coalesce(to_json(role)::text, 'null') || '}'
FROM members
UNION ALL
SELECT 'by_region[' || to_json(region) || ']', 'people', id,
       '{"id":' || to_json(id) || ',"region":' || to_json(region) || ',"active":' || active::int || '}'
FROM owners
