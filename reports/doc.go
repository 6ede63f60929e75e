// Package reports owns abuse reports: what users tell the administrators of this server about a room, an event or another user.
//
// Table: reports, which was made by the migrations of package rooms. The package has no stream and no role of its own; processes of the
// role client serve it. Administrators read the reports through package admin, and by the command lyceum reports.
//
// Invariant: a user reports an event only while a member of its room, and only one that the user may see.
//
// The main types: Report is one report; Query asks for a page of reports of one Kind.
package reports
