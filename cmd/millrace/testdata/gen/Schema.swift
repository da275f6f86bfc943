// Made by `millrace gen swift` from sync.yaml and the tables of the source.
// Do not edit: run it again after a change.
import PowerSync

let AppSchema = Schema(
    Table(
        name: "list_members",
        columns: [
            .text("list_id"), // uuid
            .text("user_id"),
        ]
    ),
    Table(
        name: "lists",
        columns: [
            .text("name"),
            .text("owner_id"),
            .text("created_at"), // timestamp with time zone
        ]
    ),
    Table(
        name: "my-items",
        columns: [
            .text("price"), // numeric(10,2)
            .integer("dear"),
            .real("double_weight"),
            .text("picture"),
            .integer("size$"),
        ]
    ),
    Table(
        name: "todos",
        columns: [
            .text("list_id"), // uuid
            .text("title"),
            .integer("completed"), // boolean
            .text("created_by"),
            .text("created_at"), // timestamp with time zone
            .text("completed_at"), // timestamp with time zone
        ]
    )
)
