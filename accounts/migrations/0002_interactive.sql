-- id is a hash of the session that the client holds. request is a keyed hash of what the session was begun
-- for. used: the session is spent, or being spent.
ALTER TABLE interactive_sessions ADD COLUMN request TEXT NOT NULL DEFAULT '';
ALTER TABLE interactive_sessions ADD COLUMN used BOOLEAN NOT NULL DEFAULT FALSE;
CREATE INDEX interactive_sessions_user ON interactive_sessions (user_id) WHERE user_id <> '';
