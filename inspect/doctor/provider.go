package doctor

import (
	"context"

	"github.com/jackc/pgx/v5"
)

// provider is who runs a server, as far as it shows: what is cured by SQL
// elsewhere may need a setting of theirs.
type provider string

const (
	selfHosted provider = ""
	rds        provider = "Amazon RDS"
	aurora     provider = "Amazon Aurora"
	cloudSQL   provider = "Google Cloud SQL"
	supabase   provider = "Supabase"
	neon       provider = "Neon"
	azure      provider = "Azure Database"
)

// signs are what tells providers: roles and settings that only they have. The
// first that is there wins.
var signs = []struct {
	sql string
	is  provider
}{
	{`EXISTS (SELECT FROM pg_proc WHERE proname = 'aurora_version')`, aurora},
	{`EXISTS (SELECT FROM pg_roles WHERE rolname IN ('rds_superuser', 'rdsadmin'))`, rds},
	{`EXISTS (SELECT FROM pg_roles WHERE rolname = 'cloudsqlsuperuser')`, cloudSQL},
	{`EXISTS (SELECT FROM pg_roles WHERE rolname = 'supabase_admin')`, supabase},
	{`EXISTS (SELECT FROM pg_roles WHERE rolname = 'neon_superuser')`, neon},
	{`EXISTS (SELECT FROM pg_roles WHERE rolname = 'azure_pg_admin')`, azure},
}

func detect(ctx context.Context, conn *pgx.Conn) (provider, error) {
	for _, s := range signs {
		var is bool
		if err := conn.QueryRow(ctx, "SELECT "+s.sql).Scan(&is); err != nil {
			return selfHosted, err
		}
		if is {
			return s.is, nil
		}
	}
	return selfHosted, nil
}

// cures are the providers' own ways, by code and object of a finding. "" as
// object is any.
var cures = map[provider]map[string]string{
	rds: {
		"MR1003":                 "set rds.logical_replication = 1 in the instance's parameter group and reboot the instance",
		"MR1004":                 "raise it in the instance's parameter group and reboot the instance",
		"MR1005":                 "GRANT rds_replication TO %role%;",
		"MR1006":                 "use the endpoint of the instance, not of RDS Proxy: it does not pass replication through",
		"max_slot_wal_keep_size": "set max_slot_wal_keep_size (in MB) in the instance's parameter group",
	},
	aurora: {
		"MR1003":                 "set rds.logical_replication = 1 in the cluster's parameter group and reboot the writer instance",
		"MR1004":                 "raise it in the cluster's parameter group and reboot the writer instance",
		"MR1005":                 "GRANT rds_replication TO %role%;",
		"MR1006":                 "use the cluster's writer endpoint, not RDS Proxy or the reader endpoint",
		"max_slot_wal_keep_size": "Aurora keeps the WAL in its cluster volume and has no such limit: set decoder.slot_max_lag",
	},
	cloudSQL: {
		"MR1003":                 "gcloud sql instances patch INSTANCE --database-flags=cloudsql.logical_decoding=on (restarts it)",
		"MR1004":                 "gcloud sql instances patch INSTANCE --database-flags=%object%=20 (restarts it)",
		"MR1005":                 "ALTER USER %role% WITH REPLICATION; as a member of cloudsqlsuperuser",
		"MR1006":                 "connect to the primary instance's address, directly or through the Cloud SQL Auth Proxy",
		"max_slot_wal_keep_size": "gcloud sql instances patch INSTANCE --database-flags=max_slot_wal_keep_size=10240",
	},
	supabase: {
		"MR1003":                 "it is logical on Supabase by default: this is not the project's database, or it is paused",
		"MR1004":                 "supabase --experimental postgres-config update --config %object%=20",
		"MR1005":                 "use the role postgres, or ALTER ROLE %role% REPLICATION; as postgres",
		"MR1006":                 "use the direct connection db.PROJECT.supabase.co:5432 (IPv6, or the IPv4 add-on), not the pooler",
		"max_slot_wal_keep_size": "supabase --experimental postgres-config update --config max_slot_wal_keep_size=10GB",
	},
	neon: {
		"MR1003":                 "enable logical replication in the project's settings (it restarts the compute and cannot be undone)",
		"MR1004":                 "Neon fixes it: drop slots nobody needs, or ask their support",
		"MR1005":                 "use a role made in the Neon console, which may replicate: one made by SQL may not",
		"MR1006":                 "use the connection string without -pooler in the host name",
		"max_slot_wal_keep_size": "Neon removes slots that nobody reads for about 40 hours; a decoder that runs is safe",
	},
	azure: {
		"MR1003":                 "set the server parameter wal_level to logical and restart the server",
		"MR1004":                 "raise the server parameter and restart the server",
		"MR1005":                 "ALTER ROLE %role% WITH REPLICATION; as the administrator",
		"max_slot_wal_keep_size": "set the server parameter max_slot_wal_keep_size",
	},
}
