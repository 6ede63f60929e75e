CREATE TABLE machines (
  id BIGINT NOT NULL PRIMARY KEY,
  incarnation BIGINT NOT NULL,
  address TEXT NOT NULL,
  host TEXT NOT NULL,
  version TEXT NOT NULL,
  roles TEXT NOT NULL,
  draining BOOLEAN NOT NULL,
  started_ms BIGINT NOT NULL,
  expires_ms BIGINT NOT NULL
);

-- pos is the last position that the owner of the lease has written under it.
CREATE TABLE leases (
  name TEXT NOT NULL PRIMARY KEY,
  machine BIGINT NOT NULL,
  incarnation BIGINT NOT NULL,
  epoch BIGINT NOT NULL,
  pos BIGINT NOT NULL
);

-- What all processes of the fleet share: made once by the first process.
CREATE TABLE fleet (
  name TEXT NOT NULL PRIMARY KEY,
  value TEXT NOT NULL
);
