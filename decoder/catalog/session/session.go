// Package session says how a connection to a source Postgres is made: the
// session settings that fix the text form of values (P13), and connection
// errors that a person can act on and that never hold a password.
package session

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// Purpose is what a connection is for.
type Purpose int

// The purposes.
const (
	Plain       Purpose = iota // ordinary SQL
	ReadOnly                   // copies of tables: cannot write
	Replication                // a walsender that also takes SQL
)

// Settings gives the startup parameters of a connection. They come from us and
// not from the role or the database, whose defaults reach even a walsender's
// output (P13).
func Settings(p Purpose) map[string]string {
	s := map[string]string{
		"TimeZone":                            "UTC",
		"DateStyle":                           "ISO",
		"IntervalStyle":                       "postgres",
		"bytea_output":                        "hex",
		"extra_float_digits":                  "1",
		"client_encoding":                     "UTF8",
		"statement_timeout":                   "0",
		"lock_timeout":                        "0",
		"idle_in_transaction_session_timeout": "0",
		"search_path":                         "pg_catalog",
		"application_name":                    "millrace",
	}
	switch p {
	case ReadOnly:
		s["default_transaction_read_only"] = "on"
	case Replication:
		s["replication"] = "database"
	}
	return s
}

// connectTimeout holds where the connection string has no connect_timeout.
const connectTimeout = 15 * time.Second

// Apply puts the settings into a parsed configuration.
func Apply(c *pgconn.Config, p Purpose) {
	if c.ConnectTimeout == 0 {
		c.ConnectTimeout = connectTimeout
	}
	if c.RuntimeParams == nil {
		c.RuntimeParams = map[string]string{}
	}
	for k := range c.RuntimeParams {
		// A setting given in the URI is replaced whatever its case.
		for name := range Settings(p) {
			if strings.EqualFold(k, name) {
				delete(c.RuntimeParams, k)
			}
		}
	}
	for k, v := range Settings(p) {
		c.RuntimeParams[k] = v
	}
	if p != Plain {
		c.AfterConnect = takeBytes
	}
}

// takeBytes lets a database whose encoding is SQL_ASCII, which does not know
// what its texts are, give them as they are. Converting them would fail at the
// first row that is not UTF-8, and stop the stream there for ever; so such rows
// can be told one by one.
func takeBytes(ctx context.Context, conn *pgconn.PgConn) error {
	if conn.ParameterStatus("server_encoding") != "SQL_ASCII" {
		return nil
	}
	return conn.Exec(ctx, "SET client_encoding = 'SQL_ASCII'").Close()
}

// ErrURI is a connection string that cannot be read. The text of the parser is
// left out: it may quote parts of a password.
var ErrURI = errors.New("connection string is not valid: expected postgres://user@host:port/database " +
	"with special characters in the password percent-encoded")

// Config reads a connection string for the purpose.
func Config(uri string, p Purpose) (*pgconn.Config, error) {
	c, err := pgconn.ParseConfig(uri)
	if err != nil {
		return nil, ErrURI
	}
	Apply(c, p)
	return c, nil
}

// Cause classifies why a connection could not be made.
type Cause string

// The causes.
const (
	Unreachable    Cause = "unreachable"    // DNS, refused, timed out
	Authentication Cause = "authentication" // back off for minutes: providers ban addresses (P11)
	Encryption     Cause = "encryption"     // TLS
	NoDatabase     Cause = "no database"
	Refused        Cause = "refused" // the server answered and said no for another reason
)

// ConnectError is a source that cannot be connected to (MR1001, or MR1005
// for a missing right to replicate).
type ConnectError struct {
	Host, User, Database string
	Cause                Cause
	Reason               string // what went wrong and what to do, without secrets
	Err                  error
}

// Error is one sentence for people.
func (e *ConnectError) Error() string {
	return fmt.Sprintf("%s: connect to source %s as %s, database %s: %s", e.Code(), e.Host, e.User, e.Database, e.Reason)
}

// Code is the stable code people search for.
func (e *ConnectError) Code() string {
	var pg *pgconn.PgError
	if errors.As(e.Err, &pg) && pg.Code == "42501" {
		return "MR1005"
	}
	return "MR1001"
}

// Unwrap gives the driver's error.
func (e *ConnectError) Unwrap() error { return e.Err }

// Explain turns an error of connecting with c into a *ConnectError. A
// cancelled context stays what it is.
func Explain(c *pgconn.Config, err error) error {
	if err == nil || errors.Is(err, context.Canceled) {
		return err
	}
	host := c.Host
	if !strings.HasPrefix(host, "/") {
		host = net.JoinHostPort(host, strconv.Itoa(int(c.Port)))
	}
	e := &ConnectError{Host: host, User: c.User, Database: c.Database, Cause: Refused, Err: err}
	var (
		pg        *pgconn.PgError
		dns       *net.DNSError
		unknownCA x509.UnknownAuthorityError
		hostname  x509.HostnameError
		record    tls.RecordHeaderError
		op        *net.OpError
	)
	switch {
	case errors.As(err, &pg):
		e.server(pg)
	case errors.As(err, &dns):
		e.Cause = Unreachable
		e.Reason = "the host name does not resolve: check host and DNS"
	case errors.As(err, &unknownCA), errors.As(err, &hostname), errors.As(err, &record),
		strings.Contains(err.Error(), "tls:"), strings.Contains(err.Error(), "refused TLS"):
		e.Cause = Encryption
		e.Reason = "TLS could not be agreed: check sslmode and sslrootcert of the URI and ssl of the server (" + lastLine(err) + ")"
	case errors.As(err, &op), errors.Is(err, context.DeadlineExceeded):
		e.Cause = Unreachable
		e.Reason = "no server answers there: check that it runs, listens on this address and that no firewall is between (" + lastLine(err) + ")"
	default:
		e.Reason = lastLine(err)
	}
	return e
}

func (e *ConnectError) server(pg *pgconn.PgError) {
	switch pg.Code {
	case "28P01":
		e.Cause = Authentication
		e.Reason = "the password is wrong, or the role has none"
	case "28000":
		e.Cause = Authentication
		e.Reason = pg.Message + ": check the role and pg_hba.conf"
	case "3D000":
		e.Cause = NoDatabase
		e.Reason = "the database does not exist"
	case "42501":
		e.Reason = fmt.Sprintf("the role may not replicate: ALTER ROLE %s REPLICATION;", Ident(e.User))
	case "53300":
		e.Reason = "no free connection slot (" + pg.Message + "): raise max_connections or max_wal_senders"
	case "57P03":
		e.Cause = Unreachable
		e.Reason = "the server is not ready: " + pg.Message
	default:
		e.Reason = pg.Message + " (SQLSTATE " + pg.Code + ")"
		if pg.Code == "42704" || pg.Code == "08P01" {
			e.Reason += ": if this is a pooler, use the direct endpoint of the primary"
		}
	}
}

// lastLine gives the innermost text: pgx lists every address tried.
func lastLine(err error) string {
	for {
		next := errors.Unwrap(err)
		if next == nil {
			break
		}
		err = next
	}
	text := err.Error()
	if i := strings.LastIndexByte(text, '\n'); i >= 0 {
		text = text[i+1:]
	}
	return strings.TrimSpace(text)
}

// Literal quotes an SQL string for a session with standard_conforming_strings
// on; backslashes are given in the escape form, which does not depend on it.
func Literal(s string) string {
	quoted := "'" + strings.ReplaceAll(s, "'", "''") + "'"
	if strings.Contains(s, `\`) {
		return " E" + strings.ReplaceAll(quoted, `\`, `\\`)
	}
	return quoted
}
