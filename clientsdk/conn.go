package clientsdk

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"fmt"
)

// pool opens connections of a registered database/sql driver and runs a few
// statements on each new one, so that settings hold whatever the driver's own
// way of spelling them is.
type pool struct {
	driver driver.Driver
	dsn    string
	setup  []string
}

var (
	readerSetup = []string{
		`PRAGMA busy_timeout = 10000`,
		`PRAGMA journal_mode = wal`,
		`PRAGMA temp_store = memory`,
		`PRAGMA cache_size = -16384`,
		`PRAGMA query_only = 1`,
	}
	writerSetup = []string{
		`PRAGMA busy_timeout = 10000`,
		`PRAGMA page_size = 8192`,
		`PRAGMA journal_mode = wal`,
		`PRAGMA synchronous = normal`,
		`PRAGMA temp_store = memory`,
		`PRAGMA cache_size = -51200`,
		`PRAGMA recursive_triggers = 0`,
		`PRAGMA wal_autocheckpoint = 4000`,
	}
)

// openPool opens name's driver. At most conns connections are open at a time.
func openPool(name, dsn string, setup []string, conns int) (*sql.DB, error) {
	probe, err := sql.Open(name, dsn) // opens nothing; finds the driver
	if err != nil {
		return nil, fmt.Errorf("open %s with driver %q (is the driver imported?): %w", dsn, name, err)
	}
	d := probe.Driver()
	if err := probe.Close(); err != nil {
		return nil, fmt.Errorf("open %s: %w", dsn, err)
	}
	db := sql.OpenDB(&pool{driver: d, dsn: dsn, setup: setup})
	db.SetMaxOpenConns(conns)
	db.SetMaxIdleConns(conns)
	return db, nil
}

// Driver implements driver.Connector.
func (p *pool) Driver() driver.Driver { return p.driver }

// Connect implements driver.Connector.
func (p *pool) Connect(ctx context.Context) (driver.Conn, error) {
	c, err := p.dial(ctx)
	if err != nil {
		return nil, err
	}
	for _, q := range p.setup {
		if err := runSetup(ctx, c, q); err != nil {
			return nil, fmt.Errorf("%s: %w", q, closing(c, err))
		}
	}
	return c, nil
}

func (p *pool) dial(ctx context.Context) (driver.Conn, error) {
	if dc, ok := p.driver.(driver.DriverContext); ok {
		connector, err := dc.OpenConnector(p.dsn)
		if err != nil {
			return nil, err
		}
		return connector.Connect(ctx)
	}
	return p.driver.Open(p.dsn)
}

func runSetup(ctx context.Context, c driver.Conn, q string) error {
	if e, ok := c.(driver.ExecerContext); ok {
		_, err := e.ExecContext(ctx, q, nil)
		return err
	}
	s, err := c.Prepare(q)
	if err != nil {
		return err
	}
	defer s.Close()
	_, err = s.Exec(nil) //nolint:staticcheck // the only way without ExecerContext
	return err
}

func closing(c driver.Conn, err error) error {
	if e := c.Close(); e != nil {
		return fmt.Errorf("%w (and closing: %v)", err, e)
	}
	return err
}
