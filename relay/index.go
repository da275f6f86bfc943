package relay

import (
	"github.com/millrace/millrace"
)

// followed is a bucket that at least one session follows.
type followed struct {
	bucketRef
	state    bucketState // at the publisher's head
	sessions map[*session]struct{}
}

// index knows who follows what. It belongs to the publisher's goroutine.
type index struct {
	buckets map[millrace.BucketName]*followed
	byID    map[millrace.BucketID]*followed
	unborn  map[millrace.BucketName]*followed // those without history
	lookups map[millrace.LookupKey]map[*session]struct{}
	asked   map[millrace.DefinitionID]int // keys in lookups, by definition
	users   map[string]map[*session]struct{}
	follows int // bucket subscriptions
}

func newIndex() *index {
	return &index{
		buckets: map[millrace.BucketName]*followed{},
		byID:    map[millrace.BucketID]*followed{},
		unborn:  map[millrace.BucketName]*followed{},
		lookups: map[millrace.LookupKey]map[*session]struct{}{},
		asked:   map[millrace.DefinitionID]int{},
		users:   map[string]map[*session]struct{}{},
	}
}

// bucket finds or makes the entry of a bucket; state is used for a new one.
func (x *index) bucket(name millrace.BucketName, wire string, state func() bucketState) *followed {
	f := x.buckets[name]
	if f == nil {
		f = &followed{bucketRef: bucketRef{name: name, wire: wire}, sessions: map[*session]struct{}{}}
		x.buckets[name] = f
		x.setState(f, state())
	}
	return f
}

func (x *index) setState(f *followed, s bucketState) {
	if f.state.id != s.id {
		delete(x.byID, f.state.id)
	}
	f.state = s
	if s.id == 0 {
		x.unborn[f.name] = f
		return
	}
	delete(x.unborn, f.name)
	x.byID[s.id] = f
}

// follow makes s follow exactly these buckets and lookup keys.
func (x *index) follow(s *session, buckets []*followed, lookups []millrace.LookupKey) {
	for _, f := range buckets {
		if _, dup := f.sessions[s]; !dup {
			f.sessions[s] = struct{}{}
			x.follows++
		}
	}
	keep := make(map[*followed]struct{}, len(buckets))
	for _, f := range buckets {
		keep[f] = struct{}{}
	}
	for _, f := range s.pub.buckets {
		if _, stays := keep[f]; !stays {
			x.unfollow(s, f)
		}
	}
	s.pub.buckets = buckets

	before := s.pub.lookups
	s.pub.lookups = lookups
	for _, k := range lookups {
		if x.lookups[k] == nil {
			x.asked[k.Definition]++
		}
		add(x.lookups, k, s)
	}
	if len(before) == 0 {
		return
	}
	stays := make(map[millrace.LookupKey]struct{}, len(lookups))
	for _, k := range lookups {
		stays[k] = struct{}{}
	}
	for _, k := range before {
		if _, ok := stays[k]; ok || x.lookups[k] == nil {
			continue
		}
		drop(x.lookups, k, s)
		if x.lookups[k] == nil {
			if x.asked[k.Definition]--; x.asked[k.Definition] == 0 {
				delete(x.asked, k.Definition)
			}
		}
	}
}

func (x *index) unfollow(s *session, f *followed) {
	if _, ok := f.sessions[s]; !ok {
		return
	}
	delete(f.sessions, s)
	x.follows--
	if len(f.sessions) == 0 {
		delete(x.buckets, f.name)
		delete(x.byID, f.state.id)
		delete(x.unborn, f.name)
	}
}

// remove forgets the session.
func (x *index) remove(s *session) {
	x.follow(s, nil, nil)
	drop(x.users, s.user, s)
}

func add[K comparable](m map[K]map[*session]struct{}, k K, s *session) {
	set := m[k]
	if set == nil {
		set = map[*session]struct{}{}
		m[k] = set
	}
	set[s] = struct{}{}
}

func drop[K comparable](m map[K]map[*session]struct{}, k K, s *session) {
	set := m[k]
	delete(set, s)
	if len(set) == 0 {
		delete(m, k)
	}
}
