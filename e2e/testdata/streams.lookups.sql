-- The parameter index of streams.yaml, as (definition name, key, outputs).
SELECT 'team_docs' AS name, '[' || to_json(owner) || ']' AS key, '[' || to_json(team) || ']' AS output FROM members
