-- body: the parameters that an interaction was begun with; answer: that of an interaction that is finished, which is then used. Both
-- are sealed with a key that is made of what the client holds and the database does not.
ALTER TABLE interactive_sessions ADD COLUMN body TEXT NOT NULL DEFAULT '';
ALTER TABLE interactive_sessions ADD COLUMN answer TEXT NOT NULL DEFAULT '';
