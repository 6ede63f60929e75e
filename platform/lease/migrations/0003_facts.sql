-- facts: what a process tells the others of its configuration and listeners, read at the start of another one.
ALTER TABLE machines ADD COLUMN facts TEXT NOT NULL DEFAULT '';
