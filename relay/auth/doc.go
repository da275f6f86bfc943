// Package auth verifies the tokens (JWT) clients bring: signature by configured
// keys or remote key sets, audience, issuer, times and lifetime. Every refusal
// has a wire code and words that help whoever made the token; tokens and keys
// themselves are in no error and no log.
package auth
