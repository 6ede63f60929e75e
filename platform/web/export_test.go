package web

// Parked is how many requests are set aside.
func (s *Server) Parked() int { return len(s.parked.list()) }
