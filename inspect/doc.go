// Package inspect answers the questions people ask about rules and data: what
// would this user get? It works on the compiled rules and reads the source; it
// never writes anywhere. It does not import the relay.
package inspect
