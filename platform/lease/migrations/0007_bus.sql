-- bus: the server of the bus that the machine is connected to; machines at different ones do not hear each other. '' is not known.
ALTER TABLE machines ADD COLUMN bus TEXT NOT NULL DEFAULT '';
