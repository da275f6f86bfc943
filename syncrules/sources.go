package syncrules

// Defaults lists what a request gets without subscribing: bucket definitions,
// and streams with auto_subscribe. Each once, in the order of the file.
func (r *Rules) Defaults() []string {
	var list []string
	seen := map[string]bool{}
	for _, res := range r.resolvers {
		if res.auto && !seen[res.name] {
			seen[res.name] = true
			list = append(list, res.name)
		}
	}
	return list
}
