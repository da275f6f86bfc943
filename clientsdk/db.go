package clientsdk

// DB is a local database.
type DB struct {
	store *store
}
