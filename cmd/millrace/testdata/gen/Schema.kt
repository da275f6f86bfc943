// Made by `millrace gen kotlin` from sync.yaml and the tables of the source.
// Do not edit: run it again after a change.
package com.example.app

import com.powersync.db.schema.Column
import com.powersync.db.schema.Schema
import com.powersync.db.schema.Table

val AppSchema: Schema = Schema(
    listOf(
        Table(
            name = "list_members",
            columns = listOf(
                Column.text("list_id"), // uuid
                Column.text("user_id"),
            ),
        ),
        Table(
            name = "lists",
            columns = listOf(
                Column.text("name"),
                Column.text("owner_id"),
                Column.text("created_at"), // timestamp with time zone
            ),
        ),
        Table(
            name = "my-items",
            columns = listOf(
                Column.text("price"), // numeric(10,2)
                Column.integer("dear"),
                Column.real("double_weight"),
                Column.text("picture"),
                Column.integer("size\$"),
            ),
        ),
        Table(
            name = "todos",
            columns = listOf(
                Column.text("list_id"), // uuid
                Column.text("title"),
                Column.integer("completed"), // boolean
                Column.text("created_by"),
                Column.text("created_at"), // timestamp with time zone
                Column.text("completed_at"), // timestamp with time zone
            ),
        ),
    ),
)
