-- How often pushers were changed: who remembers which there are asks this before it sends.
CREATE TABLE pusher_changes (
  id BIGINT NOT NULL PRIMARY KEY,
  n BIGINT NOT NULL
);
INSERT INTO pusher_changes (id, n) VALUES (1, 0);
