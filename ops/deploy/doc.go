// Package deploy renders the files with which a fleet runs on what an operator already has: Kubernetes
// manifests, a compose file, systemd units, the configuration of Prometheus, a Grafana dashboard, policies of
// an S3 store. Package ops/deploy/proxy renders load balancers.
//
// Everything is made from the table of roles and from sizes, so a role that is added has its workload, its
// autoscaler, its alerts and its row of the dashboard without a line here. The text of the files stands in the
// folders beside this one; the functions are pure, read nothing and write nothing.
package deploy
