-- A use of a registration token that is held has a row of interactive_sessions with the token; the two are compared.
CREATE INDEX interactive_sessions_token ON interactive_sessions (token) WHERE token <> '';
CREATE INDEX registration_tokens_pending ON registration_tokens (token) WHERE pending > 0;
