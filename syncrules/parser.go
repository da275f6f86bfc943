package syncrules

// Limits of one query.
const (
	maxDepth    = 500  // how deep expressions and statements are nested
	maxOperands = 5000 // of operators in a row
	maxItems    = 2000 // of a select list or an argument list
	maxSources  = 100  // of a FROM clause
)

// parseOptions says what the dialect at hand makes of a statement.
type parseOptions struct {
	streams bool // the streams dialect
}

// parser reads one query. Refused constructs are reported and passed over
// where their end is clear; a syntax error ends the parse.
type parser struct {
	q    *query
	opts parseOptions
	toks []token
	pos  int
	dep  int
}

// bailout ends a parse after its syntax error was reported.
type bailout struct{}

// parseSelect parses the text of a query. nil means an error was reported.
func parseSelect(q *query, opts parseOptions) (sel *selectStmt) {
	p := &parser{q: q, opts: opts, toks: lex(q.text)}
	defer func() {
		if r := recover(); r != nil {
			if _, ok := r.(bailout); !ok {
				panic(r)
			}
			sel = nil
		}
	}()
	if !p.isWord("select") {
		hint := "queries start with SELECT"
		if p.isWord("with") {
			hint = "declare common table expressions under with: instead"
		}
		q.whole().fatal(hint, "not a SELECT statement")
		return nil
	}
	sel = p.selectStatement()
	if p.acceptOp(";") && p.cur().kind != tokEOF {
		rest := span{q, p.cur().start, len(q.text)}
		rest.fatal("write one query per list item", "only one statement is allowed")
		return nil
	}
	if p.cur().kind != tokEOF {
		p.unexpected("end of the query")
	}
	return sel
}

func (p *parser) cur() token { return p.toks[p.pos] }

func (p *parser) peek(n int) token {
	if p.pos+n < len(p.toks) {
		return p.toks[p.pos+n]
	}
	return p.toks[len(p.toks)-1]
}

func (p *parser) advance() token {
	t := p.toks[p.pos]
	if t.kind == tokBad {
		p.span(t).fatal("", "%s", t.text)
		panic(bailout{})
	}
	if t.kind != tokEOF {
		p.pos++
	}
	return t
}

func (p *parser) span(t token) span { return span{p.q, t.start, t.end} }

// since is the span from the start of a token to the end of the last one read.
func (p *parser) since(start int) span {
	end := start
	if p.pos > 0 {
		end = max(start, p.toks[p.pos-1].end)
	}
	return span{p.q, start, end}
}

func (t token) isWord(w string) bool { return t.kind == tokIdent && t.text == w }
func (t token) isOp(op string) bool  { return t.kind == tokOp && t.text == op }

func (p *parser) isWord(w string) bool { return p.cur().isWord(w) }
func (p *parser) isOp(op string) bool  { return p.cur().isOp(op) }

func (p *parser) acceptWord(w string) bool {
	if p.isWord(w) {
		p.pos++
		return true
	}
	return false
}

func (p *parser) acceptOp(op string) bool {
	if p.isOp(op) {
		p.pos++
		return true
	}
	return false
}

func (p *parser) expectOp(op string) {
	if !p.acceptOp(op) {
		p.unexpected("\"" + op + "\"")
	}
}

func (p *parser) expectWord(w string) {
	if !p.acceptWord(w) {
		p.unexpected(w)
	}
}

// unexpected reports the current token as a syntax error and ends the parse.
func (p *parser) unexpected(want string) {
	t := p.cur()
	switch t.kind {
	case tokEOF:
		at := p.q.whole()
		if p.pos > 0 {
			at = p.span(p.toks[p.pos-1])
		}
		at.fatal("", "the query ends where %s was expected", want)
	case tokBad:
		p.span(t).fatal("", "%s", t.text)
	default:
		p.span(t).fatal(p.hint(t), "unexpected %q, expected %s", p.q.text[t.start:t.end], want)
	}
	panic(bailout{})
}

// hint guesses what led to a token that does not fit.
func (p *parser) hint(t token) string {
	before := token{}
	if p.pos > 0 {
		before = p.toks[p.pos-1]
	}
	switch {
	case before.isOp(",") || t.isOp(",") && before.kind == tokOp && before.text != ")":
		return "is there a comma too many?"
	case before.kind == tokString && before.end == t.start:
		return "a quote inside a text is written twice: ''"
	case t.isOp(":"), t.isOp("?"):
		return "take values from functions like auth.parameter('name') or subscription.parameter('name')"
	case t.kind == tokIdent && hardWords[t.text]:
		return "if " + p.q.text[t.start:t.end] + " is a name, put it in double quotes"
	}
	return ""
}

// enter counts nesting; leave undoes it.
func (p *parser) enter() {
	p.dep++
	if p.dep > maxDepth {
		p.span(p.cur()).fatal("split the query", "nested more than %d levels deep", maxDepth)
		panic(bailout{})
	}
}

func (p *parser) leave() { p.dep-- }

// limit ends the parse where a list has as many elements as it may.
func (p *parser) limit(n, limit int, what string) {
	if n >= limit {
		p.span(p.cur()).fatal("split the query", "more than %d %s", limit, what)
		panic(bailout{})
	}
}

// clauseWords end a select list, a source or an expression, and so cannot be
// an alias without AS.
var clauseWords = map[string]bool{
	"from": true, "where": true, "group": true, "having": true, "order": true, "limit": true, "offset": true,
	"fetch": true, "for": true, "union": true, "intersect": true, "except": true, "window": true,
	"join": true, "inner": true, "left": true, "right": true, "full": true, "cross": true, "natural": true,
	"on": true, "using": true, "as": true, "and": true, "or": true, "not": true, "in": true, "is": true,
	"between": true, "like": true, "ilike": true, "similar": true, "when": true, "then": true, "else": true, "end": true,
	"isnull": true, "notnull": true, "over": true, "filter": true, "collate": true, "at": true, "glob": true, "regexp": true,
	"tablesample": true, "returning": true, "asc": true, "desc": true,
}

// hardWords are never names unless quoted.
var hardWords = map[string]bool{
	"select": true, "from": true, "where": true, "and": true, "or": true, "not": true, "in": true, "is": true,
	"null": true, "true": true, "false": true, "as": true, "join": true, "having": true, "union": true, "intersect": true, "except": true,
	"between": true, "like": true, "ilike": true, "distinct": true, "into": true, "using": true,
}

// name reads a name; what says which one, for the error.
func (p *parser) name(what string) ident {
	t := p.cur()
	if t.kind == tokQuoted || t.kind == tokIdent && !hardWords[t.text] {
		return p.ident()
	}
	p.unexpected(what)
	return ident{}
}

// ident turns the current name token into an ident.
func (p *parser) ident() ident {
	t := p.advance()
	id := ident{p.span(t), t.text, t.kind == tokQuoted}
	if !id.quoted && !p.opts.streams && id.text() != id.name {
		id.warn("write it as \""+id.text()+"\" to keep its case, or in lower case", "unquoted name is read as %q", id.name)
	}
	return id
}

func (p *parser) selectStatement() *selectStmt {
	p.enter()
	defer p.leave()
	start := p.cur().start
	p.expectWord("select")
	sel := &selectStmt{}
	if p.isWord("distinct") || p.isWord("all") && p.peek(1).kind == tokIdent && !p.peek(1).isWord("from") {
		if t := p.advance(); t.text == "distinct" {
			s := p.span(t)
			sel.distinct = &s
			if p.acceptWord("on") {
				p.skipParens()
			}
		}
	}
	if !p.isWord("from") && !p.isWord("where") && !p.atSelectEnd() {
		sel.items = append(sel.items, p.selectItem())
		for p.acceptOp(",") {
			p.limit(len(sel.items), maxItems, "columns")
			sel.items = append(sel.items, p.selectItem())
		}
	}
	if p.acceptWord("from") {
		sel.sources = p.sources()
	}
	if p.acceptWord("where") {
		sel.where = p.expr()
	}
	p.refusedClauses()
	sel.span = p.since(start)
	return sel
}

func (p *parser) atSelectEnd() bool {
	return p.cur().kind == tokEOF || p.isOp(")") || p.isOp(";")
}

func (p *parser) selectItem() selectItem {
	start := p.cur().start
	var it selectItem
	t := p.cur()
	switch {
	case p.isOp("*"):
		p.advance()
		it.star = true
	case (t.kind == tokIdent || t.kind == tokQuoted) && p.peek(1).isOp(".") && p.peek(2).isOp("*"):
		id := p.ident()
		it.qual, it.star = &id, true
		p.pos += 2
	default:
		it.expr = p.expr()
		it.alias = p.alias()
	}
	it.span = p.since(start)
	return it
}

// alias reads [AS] name.
func (p *parser) alias() *ident {
	if p.acceptWord("as") {
		t := p.cur()
		if t.kind != tokIdent && t.kind != tokQuoted {
			p.unexpected("a name")
		}
		id := p.ident()
		return &id
	}
	t := p.cur()
	if t.kind == tokQuoted || t.kind == tokIdent && !clauseWords[t.text] && !hardWords[t.text] {
		id := p.ident()
		return &id
	}
	return nil
}

func (p *parser) sources() []source {
	list := []source{p.source()}
	for {
		p.limit(len(list), maxSources+1, "sources")
		start := p.cur().start
		switch {
		case p.acceptOp(","):
			list = append(list, p.source())
		case p.isWord("join"), p.isWord("inner"):
			p.acceptWord("inner")
			p.expectWord("join")
			s := p.source()
			if p.acceptWord("on") {
				s.on = p.expr()
			} else if p.isWord("using") {
				p.span(p.cur()).fatal("write the condition with ON", "USING cannot be used")
				p.advance()
				p.skipParens()
			}
			list = append(list, s)
		case p.isJoinWord():
			list = append(list, p.refusedJoin(start))
		default:
			return list
		}
	}
}

func (p *parser) isJoinWord() bool {
	switch p.cur().text {
	case "left", "right", "full", "cross", "natural":
	default:
		return false
	}
	n := 1
	for p.peek(n).isWord("outer") || p.peek(n).isWord("inner") || p.peek(n).isWord("left") || p.peek(n).isWord("right") || p.peek(n).isWord("full") {
		n++
	}
	return p.cur().kind == tokIdent && p.peek(n).isWord("join")
}

// refusedJoin reads and reports a join that is not an inner one.
func (p *parser) refusedJoin(start int) source {
	kind := p.span(p.cur())
	for !p.acceptWord("join") {
		kind = span{p.q, start, p.advance().end}
	}
	s := p.source()
	at := kind
	if p.isWord("on") {
		onStart := p.advance().start
		s.on = p.expr()
		at = p.since(onStart)
	} else if p.acceptWord("using") {
		p.skipParens()
	}
	at.fatal("rows that have no match cannot be synced through a join; write an inner JOIN … ON, or another query", "only inner joins are supported, not %s JOIN", kind.text())
	return s
}

// skipParens passes a balanced ( … ).
func (p *parser) skipParens() {
	if !p.isOp("(") {
		return
	}
	depth := 0
	for {
		t := p.advance()
		switch {
		case t.isOp("("):
			depth++
		case t.isOp(")"):
			depth--
			if depth == 0 {
				return
			}
		case t.kind == tokEOF:
			p.unexpected("\")\"")
		}
	}
}

func (p *parser) source() source {
	start := p.cur().start
	var s source
	if p.isOp("(") {
		p.advance()
		if !p.isWord("select") {
			p.unexpected("select")
		}
		s.sub = p.selectStatement()
		p.expectOp(")")
	} else {
		first := p.name("a table name")
		switch {
		case p.isOp("("):
			s.call = p.callTail(nil, first)
		case p.acceptOp("."):
			s.schema = &first
			s.name = p.name("a table name")
			if p.isOp("(") {
				s.call = p.callTail(s.schema, s.name)
			} else if p.isOp(".") {
				p.unexpected("a table name of at most two parts")
			}
		default:
			s.name = first
		}
	}
	s.at = p.since(start)
	s.alias = p.alias()
	if s.alias != nil && s.sub != nil && p.acceptOp("(") {
		s.cols = append(s.cols, p.name("a column name"))
		for p.acceptOp(",") {
			p.limit(len(s.cols), maxItems, "columns")
			s.cols = append(s.cols, p.name("a column name"))
		}
		p.expectOp(")")
	}
	s.span = p.since(start)
	return s
}

// refusedClauses reads and reports everything that may follow WHERE in SQL.
func (p *parser) refusedClauses() {
	for {
		start := p.cur()
		if start.kind != tokIdent {
			return
		}
		switch start.text {
		case "limit":
			p.advance()
			e := p.expr()
			e.at().fatal("rows are synced as they match; order and limit them in the app's query", "LIMIT cannot be used")
		case "offset":
			p.advance()
			p.expr()
			if !p.acceptWord("rows") {
				p.acceptWord("row")
			}
			p.since(start.start).fatal("", "OFFSET cannot be used")
		case "order", "group":
			p.advance()
			p.expectWord("by")
			first := p.expr()
			first.at().fatal("a row is synced by itself; do this in the app's query", "%s BY cannot be used", map[string]string{"order": "ORDER", "group": "GROUP"}[start.text])
			p.orderTail()
			for p.acceptOp(",") {
				p.expr()
				p.orderTail()
			}
		case "having":
			p.advance()
			e := p.expr()
			e.at().fatal("", "HAVING cannot be used")
		case "for":
			p.advance()
			t := p.advance()
			p.span(t).fatal("", "row locks (FOR %s) cannot be used", p.span(t).text())
			for p.cur().kind == tokIdent {
				p.advance()
			}
		case "union", "intersect", "except":
			p.advance()
			p.acceptWord("all")
			p.span(start).fatal("write two queries", "%s cannot be used", p.span(start).text())
			if p.isWord("select") {
				p.selectStatement()
			}
		case "fetch", "window", "tablesample", "returning":
			p.span(start).fatal("", "%s cannot be used", p.span(start).text())
			panic(bailout{})
		default:
			return
		}
	}
}

func (p *parser) orderTail() {
	if !p.acceptWord("asc") {
		p.acceptWord("desc")
	}
	if p.acceptWord("nulls") {
		p.advance()
	}
}
