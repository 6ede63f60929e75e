package status

// Since returns the sample of the same run of a process in before, an earlier status of the fleet, and the seconds between the two. When
// before is nil, or the process started later or did not answer then, it returns an empty sample and the seconds since the start of the
// process.
func (p *Sample) Since(before *Fleet) (old Sample, seconds float64) {
	if earlier := before.process(p); earlier != nil && earlier.Error == "" {
		return *earlier, p.At.Sub(earlier.At).Seconds()
	}
	return Sample{}, p.At.Sub(p.Started).Seconds()
}
