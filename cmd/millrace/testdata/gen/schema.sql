-- Made by `millrace gen sql` from sync.yaml and the tables of the source.
-- Do not edit: run it again after a change.

CREATE TABLE "list_members" (
  id TEXT PRIMARY KEY NOT NULL,
  "list_id" TEXT, -- uuid
  "user_id" TEXT
);

CREATE TABLE "lists" (
  id TEXT PRIMARY KEY NOT NULL,
  "name" TEXT,
  "owner_id" TEXT,
  "created_at" TEXT -- timestamp with time zone
);

CREATE TABLE "my-items" (
  id TEXT PRIMARY KEY NOT NULL,
  "price" TEXT, -- numeric(10,2)
  "dear" INTEGER,
  "double_weight" REAL,
  "picture" TEXT,
  "size$" INTEGER
);

CREATE TABLE "todos" (
  id TEXT PRIMARY KEY NOT NULL,
  "list_id" TEXT, -- uuid
  "title" TEXT,
  "completed" INTEGER, -- boolean
  "created_by" TEXT,
  "created_at" TEXT, -- timestamp with time zone
  "completed_at" TEXT -- timestamp with time zone
);
