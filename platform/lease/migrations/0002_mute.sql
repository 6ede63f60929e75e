-- mute: rows that the machine writes may not be on the bus, so the others ask the database.
ALTER TABLE machines ADD COLUMN mute BOOLEAN NOT NULL DEFAULT FALSE;
