-- Makes nothing: functions are made by the release that uses them.
COMMENT ON SCHEMA millrace IS 'Millrace sidecar: history of the sources and a window on it. At migration 8.';
