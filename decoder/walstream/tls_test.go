package walstream_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/millrace/millrace/internal/pgtest"
)

// Reads are coalesced below TLS: everything works there as without.
func TestTLS(t *testing.T) {
	server := pgtest.New(t, pgtest.Options{})
	src := newSource(t, server.Database(t), table)
	certificate, key := selfSigned(t)
	install(t, server.DataDir(), "server.crt", certificate)
	install(t, server.DataDir(), "server.key", key)
	src.exec("ALTER SYSTEM SET ssl = on", "SELECT pg_reload_conf()")
	src.uri = pgtest.WithParam(t, src.uri, "sslmode", "require")
	pgtest.Eventually(t, patience, func() error { // until the server has read its configuration
		if src.text("SHOW ssl") != "on" {
			return errors.New("no TLS yet")
		}
		return nil
	})
	s := src.open()
	pgtest.Eventually(t, patience, func() error {
		if src.text("SELECT s.ssl::text FROM pg_stat_ssl s JOIN pg_replication_slots r ON r.active_pid = s.pid WHERE r.slot_name = '"+src.slot+"'") != "true" {
			return errors.New("the stream is not encrypted")
		}
		return nil
	})
	src.exec("INSERT INTO t VALUES (0)", "INSERT INTO t SELECT i, repeat('x', 300) FROM generate_series(1, 50000) i")
	tx := nextTx(t, s)
	if got := rows(t, tx); got != "Relation 0" {
		t.Errorf("got %s", got)
	}
	tx.Release()
	tx = nextTx(t, s)
	if got := count(t, tx); got != 50_000 || !tx.Spooled() {
		t.Errorf("%d rows, spooled %v", got, tx.Spooled())
	}
	tx.Release()
	s.Confirm(tx.EndLSN)
	s.Close()
	pgtest.Eventually(t, patience, func() error {
		if at := src.text("SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name = '" + src.slot + "'"); at != tx.EndLSN.String() {
			return errors.New("the slot is at " + at)
		}
		return nil
	})
}

// install puts a file into the data directory as its owner's.
func install(t *testing.T, dir, name string, content []byte) {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(dir)
	if err != nil {
		t.Fatal(err)
	}
	owner, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		t.Skip("no owners of files on this system")
	}
	if err := os.Chown(path, int(owner.Uid), int(owner.Gid)); err != nil {
		t.Fatal(err)
	}
}

func selfSigned(t *testing.T) (certificate, key []byte) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "localhost"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	encoded, err := x509.MarshalECPrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: encoded})
}
