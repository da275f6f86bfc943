package catalog

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5"
)

// PublicationOID is the publication's oid, 0 if there is none, and whether it
// publishes all that is needed. A missing one is an error of the stream on some
// majors and silence on others (P10), so it has to be looked for.
func (s *Source) PublicationOID(ctx context.Context) (oid uint32, complete bool, err error) {
	err = s.pool.QueryRow(ctx, `
		SELECT oid, pubinsert AND pubupdate AND pubdelete AND pubtruncate AND NOT pubviaroot FROM pg_publication WHERE pubname = $1`,
		s.config.Publication).Scan(&oid, &complete)
	if errors.Is(err, pgx.ErrNoRows) {
		return 0, false, nil
	}
	return oid, complete, s.explain("look at the publication", err)
}
