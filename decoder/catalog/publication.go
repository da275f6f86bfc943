package catalog

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/millrace/millrace/decoder/catalog/session"
)

// PublicationChange is what EnsurePublication did.
type PublicationChange struct {
	Created bool
	Added   []TableName // to an existing publication
}

// PublicationError is a publication that lacks something and that the role
// may not change. Its text is the SQL to run.
type PublicationError struct {
	Publication string
	Missing     []TableName // tables that are not published
	SQL         []string    // what somebody with the right to do so has to run
	Err         error       // why we could not
}

// Error gives the exact SQL.
func (e *PublicationError) Error() string {
	reason := "the role may not"
	var pg *pgconn.PgError
	if errors.As(e.Err, &pg) {
		reason = pg.Message
	}
	return fmt.Sprintf("publication %s cannot be set up (%s): run %s as the owner of the tables",
		e.Publication, reason, strings.Join(e.SQL, " "))
}

// Unwrap gives the server's error.
func (e *PublicationError) Unwrap() error { return e.Err }

// Publishable gives the tables that only lack being published.
func Publishable(tables []Table) []TableName {
	var list []TableName
	for i := range tables {
		if t := &tables[i]; !t.Published && t.unsupported() == "" {
			list = append(list, t.TableName)
		}
	}
	return list
}

// EnsurePublication creates the publication for the tables, or adds those it
// lacks, one by one so that one table that is not ours does not keep the others
// out. It removes nothing. What could not be done is a *PublicationError; what
// was done is told with it.
func (s *Source) EnsurePublication(ctx context.Context, tables []TableName) (PublicationChange, error) {
	var done PublicationChange
	name := s.config.Publication
	have, err := s.published(ctx)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		sql := createPublication(name, tables)
		if _, err := s.pool.Exec(ctx, sql); err != nil {
			if !denied(err) {
				return done, s.explain("create publication", err)
			}
			return done, &PublicationError{Publication: name, Missing: tables, SQL: []string{sql}, Err: err}
		}
		done.Created = true
		return done, nil
	case err != nil:
		return done, s.explain("read publication", err)
	}
	failed := &PublicationError{Publication: name}
	for _, t := range tables {
		if have[t] {
			continue
		}
		sql := fmt.Sprintf("ALTER PUBLICATION %s ADD TABLE %s;", session.Ident(name), t.SQL())
		_, err := s.pool.Exec(ctx, sql)
		var pg *pgconn.PgError
		switch {
		case err == nil:
			done.Added = append(done.Added, t)
		case errors.As(err, &pg) && pg.Code == "42710": // somebody else was faster
		case denied(err):
			failed.Missing = append(failed.Missing, t)
			failed.SQL = append(failed.SQL, sql)
			failed.Err = err
		default:
			return done, s.explain("extend publication with "+t.String(), err)
		}
	}
	if len(failed.Missing) > 0 {
		return done, failed
	}
	return done, nil
}

// published lists the publication's tables, or gives pgx.ErrNoRows.
func (s *Source) published(ctx context.Context) (map[TableName]bool, error) {
	var exists bool
	if err := s.pool.QueryRow(ctx, "SELECT true FROM pg_publication WHERE pubname = $1", s.config.Publication).Scan(&exists); err != nil {
		return nil, err
	}
	rows, err := s.pool.Query(ctx, "SELECT schemaname::text, tablename::text FROM pg_publication_tables WHERE pubname = $1", s.config.Publication)
	if err != nil {
		return nil, err
	}
	have := map[TableName]bool{}
	var t TableName
	_, err = pgx.ForEachRow(rows, []any{&t.Schema, &t.Name}, func() error {
		have[t] = true
		return nil
	})
	return have, err
}

func createPublication(name string, tables []TableName) string {
	sql := "CREATE PUBLICATION " + session.Ident(name)
	for i, t := range tables {
		if i == 0 {
			sql += " FOR TABLE "
		} else {
			sql += ", "
		}
		sql += t.SQL()
	}
	return sql + ";"
}

func denied(err error) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && pg.Code == "42501"
}
