package syncrules

// streamDefinitions compiles the streams of the file.
func (b *builder) streamDefinitions() {
	for _, s := range b.file.streams {
		for _, q := range s.queries {
			q.whole().fatal("use bucket_definitions", "streams cannot be compiled yet")
		}
	}
}
