-- The parameter index of buckets.yaml, as (definition name, key, outputs).
SELECT 'by_team' AS name, '[' || to_json(owner) || ']' AS key, '[' || to_json(team) || ']' AS output FROM members
UNION ALL
SELECT 'by_region', '[' || to_json(id) || ']', '[' || to_json(region) || ']' FROM owners WHERE active
