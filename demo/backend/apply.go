package backend

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
)

// attempts is how often a transaction is tried against concurrent ones.
const attempts = 5

// apply runs a client transaction as one source transaction.
func (h *Handler) apply(ctx context.Context, sub string, t *transaction) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	var err error
	for range attempts {
		err = pgx.BeginFunc(ctx, h.cfg.Pool, func(tx pgx.Tx) error {
			w := &writer{ctx: ctx, tx: tx, sub: sub}
			for i := range t.Ops {
				if err := w.op(&t.Ops[i]); err != nil {
					var e *Error
					if !errors.As(err, &e) {
						if e = classify(err); conflict(err) {
							return err
						}
					}
					e.Op = &i
					return fmt.Errorf("%w (%w)", e, err)
				}
			}
			return nil
		})
		if !conflict(err) {
			return err
		}
	}
	return err
}

// writer applies the ops of one transaction for one user.
type writer struct {
	ctx context.Context
	tx  pgx.Tx
	sub string
}

// table is what clients may write of a table.
type table struct {
	columns map[string]string // Postgres type by column
	write   func(*writer, *op) error
}

var tables map[string]*table

func init() {
	tables = map[string]*table{
		"users":        {map[string]string{"name": "text"}, (*writer).users},
		"lists":        {map[string]string{"name": "text", "owner_id": "text", "created_at": "timestamptz"}, (*writer).lists},
		"list_members": {map[string]string{"list_id": "uuid", "user_id": "text"}, (*writer).members},
		"todos": {map[string]string{"list_id": "uuid", "title": "text", "completed": "boolean", "created_by": "text",
			"created_at": "timestamptz", "completed_at": "timestamptz"}, (*writer).todos},
	}
}

func (w *writer) op(o *op) error {
	t := tables[o.Type]
	switch {
	case t == nil:
		return invalid("there is no table %q to write", o.Type)
	case o.ID == "":
		return invalid("an op on %s has no id", o.Type)
	case o.Op != "PUT" && o.Op != "PATCH" && o.Op != "DELETE":
		return invalid("op %q of %s %s is none of PUT, PATCH, DELETE", o.Op, o.Type, o.ID)
	}
	delete(o.Data, "id")
	for column := range o.Data {
		if t.columns[column] == "" {
			return invalid("%s has no column %q to write", o.Type, column)
		}
	}
	return t.write(w, o)
}

// users: one's own name, nothing else.
func (w *writer) users(o *op) error {
	if o.Op != "PATCH" || string(o.ID) != w.sub {
		return forbidden("%s may change their own name and nothing else of users", w.sub)
	}
	return w.update(o)
}

// lists: whoever makes one owns it; owner and members change it, the owner
// deletes it.
func (w *writer) lists(o *op) error {
	if owner, given := o.Data["owner_id"]; given {
		v, err := text(owner)
		if err != nil || v == nil || *v != w.sub && o.Op == "PUT" {
			return forbidden("list %s: %s cannot make a list for somebody else", o.ID, w.sub)
		}
	}
	role, err := w.role(string(o.ID))
	if err != nil {
		return err
	}
	switch {
	case o.Op == "DELETE" && role == none, o.Op == "PATCH" && role == none:
		return nil
	case o.Op == "DELETE" && role != owner:
		return forbidden("list %s: only its owner may delete it", o.ID)
	case role == stranger:
		return forbidden("list %s: %s is neither its owner nor a member", o.ID, w.sub)
	case o.Op == "DELETE":
		return w.remove(`DELETE FROM lists WHERE id = $1::text::uuid`, string(o.ID))
	case o.Op == "PUT" && role == none:
		return w.insert(o, map[string]string{"owner_id": w.sub})
	}
	if v, err := text(orNull(o.Data["owner_id"])); err == nil && v != nil {
		if err := w.sameOwner(string(o.ID), *v); err != nil {
			return err
		}
	}
	delete(o.Data, "owner_id")
	return w.update(o)
}

func orNull(v []byte) []byte {
	if v == nil {
		return []byte("null")
	}
	return v
}

func (w *writer) sameOwner(list, owner string) error {
	var same bool
	if err := w.tx.QueryRow(w.ctx, `SELECT owner_id = $2 FROM lists WHERE id = $1::text::uuid`, list, owner).Scan(&same); err != nil {
		return err
	}
	if !same {
		return forbidden("list %s cannot be given to another owner", list)
	}
	return nil
}

// members: the owner adds and removes, a member may leave.
func (w *writer) members(o *op) error {
	list, user, ok := strings.Cut(string(o.ID), ".")
	if !ok || list == "" || user == "" {
		return invalid(`the id of a list_members row is "<list id>.<user id>", not %q`, o.ID)
	}
	for column, want := range map[string]string{"list_id": list, "user_id": user} {
		if v, err := text(orNull(o.Data[column])); err != nil || v != nil && !strings.EqualFold(*v, want) {
			return invalid("list_members %s: %s differs from the id", o.ID, column)
		}
	}
	if o.Op == "PATCH" {
		return nil // its columns are its id: there is nothing to change
	}
	role, err := w.role(list)
	if err != nil {
		return err
	}
	switch {
	case o.Op == "DELETE" && role == none:
		return nil
	case o.Op == "DELETE" && (role == owner || user == w.sub):
		return w.remove(`DELETE FROM list_members WHERE list_id = $1::text::uuid AND user_id = $2`, list, user)
	case role != owner:
		return forbidden("list %s: only its owner may change who is a member", list)
	}
	_, err = w.tx.Exec(w.ctx, `INSERT INTO list_members (list_id, user_id) VALUES ($1::text::uuid, $2) ON CONFLICT DO NOTHING`, list, user)
	return err
}

// todos: owner and members of the list, of both lists when one moves.
func (w *writer) todos(o *op) error {
	var have, author *string
	err := w.tx.QueryRow(w.ctx, `SELECT list_id::text, created_by FROM todos WHERE id = $1::text::uuid FOR NO KEY UPDATE`, string(o.ID)).Scan(&have, &author)
	exists := err == nil
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return err
	}
	if !exists && o.Op != "PUT" {
		return nil
	}
	var lists []string
	if exists {
		lists = append(lists, *have)
	}
	if to, given := o.Data["list_id"]; given {
		v, err := text(to)
		if err != nil || v == nil {
			return invalid("todo %s: list_id is not a list's id", o.ID)
		}
		lists = append(lists, *v)
	} else if !exists {
		return invalid("todo %s: a new one needs a list_id", o.ID)
	}
	for _, list := range lists {
		role, err := w.role(list)
		if err != nil {
			return err
		}
		if role == none || role == stranger {
			return forbidden("todo %s: %s has no list %s", o.ID, w.sub, list)
		}
	}
	if o.Op == "DELETE" {
		return w.remove(`DELETE FROM todos WHERE id = $1::text::uuid`, string(o.ID))
	}
	if by, given := o.Data["created_by"]; given {
		v, err := text(by)
		if err != nil || v != nil && *v != w.sub && (author == nil || *v != *author) {
			return forbidden("todo %s: %s cannot make it somebody else's", o.ID, w.sub)
		}
	}
	if exists {
		return w.update(o)
	}
	return w.insert(o, map[string]string{"created_by": w.sub})
}

// role is what the user is to a list.
type role uint8

const (
	none     role = iota // there is no such list
	stranger             // it is somebody else's
	member
	owner
)

// role also keeps the list from being deleted until the transaction ends.
func (w *writer) role(list string) (role, error) {
	var own, in bool
	err := w.tx.QueryRow(w.ctx, `SELECT owner_id = $2, EXISTS (SELECT 1 FROM list_members m WHERE m.list_id = l.id AND m.user_id = $2)
		FROM lists l WHERE id = $1::text::uuid FOR KEY SHARE`, list, w.sub).Scan(&own, &in)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return none, nil
	case err != nil:
		return none, err
	case own:
		return owner, nil
	case in:
		return member, nil
	}
	return stranger, nil
}

func (w *writer) remove(sql string, args ...any) error {
	_, err := w.tx.Exec(w.ctx, sql, args...)
	return err
}

// values lists the columns of an op in a fixed order, and their texts with a
// cast to the column's type from placeholder first on.
func values(o *op, first int) (columns, casts []string, args []any, err error) {
	for column := range o.Data {
		columns = append(columns, column)
	}
	slices.Sort(columns)
	for i, column := range columns {
		v, err := text(o.Data[column])
		if err != nil {
			return nil, nil, nil, invalid("%s %s: column %s: %v", o.Type, o.ID, column, err)
		}
		casts = append(casts, fmt.Sprintf("$%d::text::%s", first+i, tables[o.Type].columns[column]))
		args = append(args, v)
	}
	return columns, casts, args, nil
}

// idType casts an id to its column's type.
func idType(table string) string {
	if table == "users" {
		return "text"
	}
	return "uuid"
}

func (w *writer) insert(o *op, defaults map[string]string) error {
	columns, casts, args, err := values(o, 2)
	if err != nil {
		return err
	}
	for column, v := range defaults {
		if !slices.Contains(columns, column) {
			columns, args = append(columns, column), append(args, v)
			casts = append(casts, fmt.Sprintf("$%d::text::%s", len(args)+1, tables[o.Type].columns[column]))
		}
	}
	columns, casts = append([]string{"id"}, columns...), append([]string{"$1::text::" + idType(o.Type)}, casts...)
	_, err = w.tx.Exec(w.ctx, fmt.Sprintf(`INSERT INTO %s (%s) VALUES (%s)`, o.Type, strings.Join(columns, ", "), strings.Join(casts, ", ")),
		append([]any{string(o.ID)}, args...)...)
	return err
}

func (w *writer) update(o *op) error {
	columns, casts, args, err := values(o, 2)
	if err != nil || len(columns) == 0 {
		return err
	}
	set := make([]string, len(columns))
	for i, c := range columns {
		set[i] = c + " = " + casts[i]
	}
	_, err = w.tx.Exec(w.ctx, fmt.Sprintf(`UPDATE %s SET %s WHERE id = $1::text::%s`, o.Type, strings.Join(set, ", "), idType(o.Type)),
		append([]any{string(o.ID)}, args...)...)
	return err
}
