package syncrules

import (
	"strings"

	"github.com/millrace/millrace"
)

// Binding powers, loosest first. Binary operators associate to the left.
const (
	bindOr = iota + 1
	bindAnd
	bindNot
	bindEqual
	bindIs
	bindLess
	bindIn
	bindBits
	bindAdd
	bindMultiply
	bindSign
	bindArrow
	bindCast
)

var binaryPower = map[string]int{
	"=": bindEqual, "==": bindEqual, "!=": bindEqual, "<>": bindEqual,
	"<": bindLess, "<=": bindLess, ">": bindLess, ">=": bindLess,
	"&": bindBits, "|": bindBits, "<<": bindBits, ">>": bindBits,
	"+": bindAdd, "-": bindAdd, "||": bindAdd,
	"*": bindMultiply, "/": bindMultiply, "%": bindMultiply,
	"->": bindArrow, "->>": bindArrow,
}

// refusedOperators are read with the given power and reported.
var refusedOperators = map[string]int{
	"~": bindIn, "~*": bindIn, "!~": bindIn, "!~*": bindIn, "~~": bindIn, "!~~": bindIn, "@>": bindIn, "<@": bindIn,
	"^": bindMultiply, "#": bindBits, "@": bindBits,
}

// operatorHints say what to write instead.
var operatorHints = map[string]string{
	"~": "use LIKE or instr()", "~*": "use LIKE or instr()", "!~": "use NOT LIKE or instr()", "!~*": "use NOT LIKE or instr()",
	"~~": "use LIKE", "!~~": "use NOT LIKE", "@>": "use IN or && over JSON arrays", "<@": "use IN or && over JSON arrays",
}

func (p *parser) expr() astExpr { return p.exprAbove(0) }

// exprAbove reads an expression whose operators all bind tighter than power.
func (p *parser) exprAbove(power int) astExpr {
	p.enter()
	defer p.leave()
	left := p.prefix()
	for n := 0; ; n++ {
		p.limit(n, maxOperands, "operators in a row")
		next := p.infix(left, power)
		if next == nil {
			return left
		}
		left = next
	}
}

// infix reads one operator and its right side if it binds tighter than power.
func (p *parser) infix(left astExpr, power int) astExpr {
	t := p.cur()
	start := left.at().start
	if t.kind == tokOp {
		if bind, ok := binaryPower[t.text]; ok && bind > power {
			p.advance()
			right := p.exprAbove(bind)
			op := t.text
			switch op {
			case "<>":
				op = "!="
			case "==":
				op = "="
			}
			return &binExpr{p.since(start), op, left, right}
		}
		if bind, ok := refusedOperators[t.text]; ok && bind > power {
			p.advance()
			p.exprAbove(bind)
			return p.refuse(p.since(start), operatorHints[t.text], "operator %s is not supported", t.text)
		}
		switch {
		case t.text == "::" && bindCast > power:
			p.advance()
			typ := p.typeName()
			return &castExpr{p.since(start), left, typ}
		case t.text == "&&" && bindIn > power:
			p.advance()
			return p.inSet(&inExpr{x: left, overlap: true}, start)
		case t.text == "[" && bindCast > power:
			for !p.acceptOp("]") {
				if p.advance().kind == tokEOF {
					p.unexpected("\"]\"")
				}
			}
			return p.refuse(p.since(start), "use ->> to get at an element", "array subscripts are not supported")
		}
		return nil
	}
	if t.kind != tokIdent {
		return nil
	}
	switch t.text {
	case "or":
		if bindOr > power {
			p.advance()
			right := p.exprAbove(bindOr)
			return &binExpr{p.since(start), "or", left, right}
		}
	case "and":
		if bindAnd > power {
			p.advance()
			right := p.exprAbove(bindAnd)
			return &binExpr{p.since(start), "and", left, right}
		}
	case "is":
		if bindIs > power {
			return p.is(left, start)
		}
	case "isnull", "notnull":
		if bindIs > power {
			p.advance()
			return &isExpr{p.since(start), left, t.text == "notnull", "null"}
		}
	case "not":
		switch p.peek(1).text {
		case "in", "between", "like", "ilike", "similar", "glob", "regexp":
			if bindIn > power && p.peek(1).kind == tokIdent {
				p.advance()
				return p.wordOperator(left, start, true)
			}
		}
	case "in", "between", "like", "ilike", "similar", "glob", "regexp":
		if bindIn > power {
			return p.wordOperator(left, start, false)
		}
	case "at", "collate", "over", "filter":
		if bindCast > power {
			return p.refusedSuffix(left, start)
		}
	}
	return nil
}

func (p *parser) wordOperator(left astExpr, start int, not bool) astExpr {
	t := p.advance()
	switch t.text {
	case "in":
		return p.inSet(&inExpr{x: left, not: not}, start)
	case "between":
		lo := p.exprAbove(bindIn)
		p.expectWord("and")
		hi := p.exprAbove(bindIn)
		return &betweenExpr{p.since(start), left, lo, hi, not}
	case "like":
		pattern := p.exprAbove(bindIn)
		if p.isWord("escape") {
			escape := p.advance()
			p.exprAbove(bindIn)
			return p.refuse(p.span(escape), "test with instr() or substring()", "ESCAPE is not supported")
		}
		var e astExpr = &binExpr{p.since(start), "like", left, pattern}
		if not {
			e = &unaryExpr{p.since(start), "not", e}
		}
		return e
	case "similar":
		p.expectWord("to")
	}
	p.exprAbove(bindIn)
	if p.acceptWord("escape") {
		p.exprAbove(bindIn)
	}
	hint := "use LIKE or instr()"
	if t.text == "ilike" {
		hint = "use LIKE, which takes ASCII letters of either case"
	}
	return p.refuse(p.since(start), hint, "%s is not supported", strings.ToUpper(p.span(t).text()))
}

// refusedSuffix reports "x AT TIME ZONE …", "x COLLATE …", "f() OVER (…)".
func (p *parser) refusedSuffix(left astExpr, start int) astExpr {
	t := p.cur()
	next := p.peek(1)
	at := left.at()
	if call, ok := left.(*callExpr); ok {
		at = call.fn
	}
	switch {
	case t.text == "at" && next.isWord("time"):
		p.pos += 2
		p.expectWord("zone")
		p.exprAbove(bindCast)
		return p.refuse(p.since(start), "", "AT TIME ZONE is not supported")
	case t.text == "collate" && (next.kind == tokIdent || next.kind == tokQuoted):
		p.pos += 2
		return p.refuse(p.since(start), "", "COLLATE is not supported")
	case t.text == "over" && (next.isOp("(") || next.kind == tokIdent):
		p.advance()
		if next.isOp("(") {
			p.skipParens()
		} else {
			p.advance()
		}
		return p.refuse(at, "", "window functions are not supported")
	case t.text == "filter" && next.isOp("("):
		p.advance()
		p.skipParens()
		return p.refuse(at, "", "FILTER is not supported")
	}
	return nil
}

func (p *parser) is(left astExpr, start int) astExpr {
	p.advance()
	not := p.acceptWord("not")
	t := p.cur()
	switch {
	case t.isWord("null"), t.isWord("true"), t.isWord("false"):
		p.advance()
		return &isExpr{p.since(start), left, not, t.text}
	case t.isWord("distinct"):
		p.advance()
		p.expectWord("from")
		right := p.exprAbove(bindIs)
		if word := strings.ToLower(right.at().text()); word == "true" || word == "false" {
			return &isExpr{p.since(start), left, !not, word} // as in SQLite
		}
		var e astExpr = &binExpr{p.since(start), "same", left, right}
		if !not {
			e = &unaryExpr{p.since(start), "not", e}
		}
		return e
	}
	p.unexpected("NULL, TRUE or FALSE")
	return nil
}

// inSet reads the right side of IN or &&.
func (p *parser) inSet(in *inExpr, start int) astExpr {
	t := p.cur()
	switch {
	case t.isWord("array") && p.peek(1).isOp("["):
		p.pos += 2
		in.list, in.isList = p.exprList("]"), true
	case t.isWord("row") && p.peek(1).isOp("("):
		p.pos += 2
		in.list, in.isList = p.exprList(")"), true
	case t.isOp("(") && p.parenHasComma():
		p.advance()
		in.list, in.isList = p.exprList(")"), true
	default:
		in.set = p.exprAbove(bindIn)
	}
	in.span = p.since(start)
	return in
}

// parenHasComma tells whether the parenthesis at hand is a list rather than
// an expression or a subquery.
func (p *parser) parenHasComma() bool {
	if p.peek(1).isWord("select") {
		return false
	}
	depth := 0
	for i := p.pos; i < len(p.toks); i++ {
		switch t := p.toks[i]; {
		case t.isOp("("), t.isOp("["):
			depth++
		case t.isOp(")"), t.isOp("]"):
			depth--
			if depth == 0 {
				return false
			}
		case t.isOp(",") && depth == 1:
			return true
		}
	}
	return false
}

// exprList reads a list up to and including the closing token; it may be
// empty.
func (p *parser) exprList(closing string) []astExpr {
	var list []astExpr
	if p.acceptOp(closing) {
		return list
	}
	for {
		p.limit(len(list), maxItems, "elements of a list")
		list = append(list, p.expr())
		if !p.acceptOp(",") {
			p.expectOp(closing)
			return list
		}
	}
}

func (p *parser) prefix() astExpr {
	t := p.cur()
	switch t.kind {
	case tokNumber:
		p.advance()
		return &litExpr{span: p.span(t), val: numberValue(t.text)}
	case tokString:
		p.advance()
		return &litExpr{span: p.span(t), val: millrace.Text(t.text)}
	case tokQuoted:
		return p.nameOrCall()
	case tokIdent:
		return p.word()
	case tokOp:
		switch t.text {
		case "(":
			return p.paren()
		case "-":
			p.advance()
			if n := p.cur(); n.kind == tokNumber {
				p.advance()
				return &litExpr{span: p.since(t.start), val: numberValue("-" + n.text)}
			}
			x := p.exprAbove(bindSign)
			return &unaryExpr{p.since(t.start), "-", x}
		case "+":
			p.advance()
			x := p.exprAbove(bindSign)
			return &unaryExpr{p.since(t.start), "+", x}
		case "*":
			p.advance()
			return p.refuse(p.span(t), "", "* cannot be used in an expression")
		}
	}
	p.unexpected("an expression")
	return nil
}

func numberValue(text string) millrace.Value {
	if !strings.ContainsAny(text, ".eE") {
		return integerValue(text)
	}
	return millrace.Real(parseReal(text))
}

func (p *parser) paren() astExpr {
	start := p.advance().start
	if p.isWord("select") {
		sel := p.selectStatement()
		p.expectOp(")")
		return &subExpr{p.since(start), sel}
	}
	e := p.expr()
	p.expectOp(")")
	return e
}

// word reads an expression that starts with an unquoted word.
func (p *parser) word() astExpr {
	t, next := p.cur(), p.peek(1)
	switch t.text {
	case "null":
		p.advance()
		return &litExpr{span: p.span(t)}
	case "true", "false":
		p.advance()
		return &litExpr{span: p.span(t), val: millrace.Bool(t.text == "true")}
	case "not":
		p.advance()
		x := p.exprAbove(bindNot)
		return &unaryExpr{p.since(t.start), "not", x}
	case "case":
		if p.startsOperand(next) {
			return p.caseExpression()
		}
	case "cast":
		if next.isOp("(") {
			return p.cast()
		}
	case "substring":
		if next.isOp("(") {
			return p.substring()
		}
	case "exists":
		if next.isOp("(") && p.peek(2).isWord("select") {
			p.advance()
			p.skipParens()
			return p.refuse(p.since(t.start), "write x IN (SELECT …)", "EXISTS is not supported")
		}
	case "array":
		if next.isOp("[") {
			p.pos += 2
			p.exprList("]")
			return p.refuse(p.since(t.start), "", "ARRAY[…] can only be used after IN")
		}
	case "interval", "date", "timestamp", "time":
		if next.kind == tokString {
			p.pos += 2
			return p.refuse(p.span(t), "rules cannot compute with time: keep a column with the result in the source", "%s literals are not supported", t.text)
		}
	case "any", "all", "some":
		if next.isOp("(") {
			p.advance()
			p.skipParens()
			return p.refuse(p.since(t.start), "write x IN array", "%s(…) is not supported", t.text)
		}
	case "current_timestamp", "current_date", "current_time", "localtime", "localtimestamp", "current_user", "session_user":
		p.advance()
		return p.refuse(p.span(t), "rules cannot depend on the time or the database user", "%s cannot be used", t.text)
	}
	if hardWords[t.text] && !next.isOp(".") {
		p.unexpected("an expression")
	}
	return p.nameOrCall()
}

// startsOperand tells whether CASE is followed by what makes it one, rather
// than being a column of that name.
func (p *parser) startsOperand(t token) bool {
	switch t.kind {
	case tokNumber, tokString, tokQuoted:
		return true
	case tokIdent:
		return t.text == "when" || t.text == "not" || t.text == "null" || t.text == "true" || t.text == "false" || !clauseWords[t.text]
	case tokOp:
		return t.text == "(" || t.text == "-" || t.text == "+"
	}
	return false
}

func (p *parser) caseExpression() astExpr {
	start := p.advance().start
	c := &caseExpr{}
	if !p.isWord("when") {
		c.base = p.expr()
	}
	for p.acceptWord("when") {
		cond := p.expr()
		p.expectWord("then")
		c.whens = append(c.whens, caseWhen{cond, p.expr()})
	}
	if len(c.whens) == 0 {
		p.unexpected("WHEN")
	}
	if p.acceptWord("else") {
		c.other = p.expr()
	}
	p.expectWord("end")
	c.span = p.since(start)
	return c
}

func (p *parser) cast() astExpr {
	start := p.advance().start
	p.expectOp("(")
	x := p.expr()
	p.expectWord("as")
	typ := p.typeName()
	p.expectOp(")")
	return &castExpr{p.since(start), x, typ}
}

// typeName reads a type, with the modifiers and suffixes of SQL types that
// the language does not have but should name in its error.
func (p *parser) typeName() ident {
	t := p.cur()
	if t.kind != tokIdent && t.kind != tokQuoted {
		p.unexpected("a type")
	}
	p.advance()
	id := ident{span: p.span(t), name: t.text}
	for {
		switch {
		case p.isOp("("):
			p.skipParens()
		case p.isOp("[") && p.peek(1).isOp("]"):
			p.pos += 2
		default:
			id.span = p.since(t.start)
			if id.end != t.end {
				id.name = id.text()
			}
			return id
		}
	}
}

// substring reads both the function and its keyword form.
func (p *parser) substring() astExpr {
	name := p.advance()
	id := ident{span: p.span(name), name: name.text}
	p.expectOp("(")
	call := &callExpr{name: id, fn: id.span}
	if !p.acceptOp(")") {
		call.args = append(call.args, p.expr())
		if p.isWord("from") || p.isWord("for") {
			from := astExpr(&litExpr{span: p.span(p.cur()), val: millrace.Integer(1)})
			if p.acceptWord("from") {
				from = p.expr()
			}
			call.args = append(call.args, from)
			if p.acceptWord("for") {
				call.args = append(call.args, p.expr())
			}
			p.expectOp(")")
		} else {
			for p.acceptOp(",") {
				call.args = append(call.args, p.expr())
			}
			p.expectOp(")")
		}
	}
	call.span = p.since(name.start)
	return call
}

// nameOrCall reads [qual.]name or [schema.]name(args).
func (p *parser) nameOrCall() astExpr {
	first := p.rawIdent()
	if p.isOp("(") {
		return p.callTail(nil, first)
	}
	if !p.isOp(".") {
		p.warnCase(first)
		return &nameExpr{first.span, nil, nil, first}
	}
	p.advance()
	t := p.cur()
	if t.isOp("*") {
		p.advance()
		return p.refuse(p.since(first.start), "", "* cannot be used in an expression")
	}
	if t.kind != tokIdent && t.kind != tokQuoted {
		p.unexpected("a column name")
	}
	second := p.rawIdent()
	if p.isOp("(") {
		return p.callTail(&first, second)
	}
	p.warnCase(first)
	p.warnCase(second)
	if p.isOp(".") && (p.peek(1).kind == tokIdent || p.peek(1).kind == tokQuoted) {
		p.advance()
		third := p.rawIdent()
		if !p.opts.streams {
			return p.refuse(p.since(first.start), "leave the schema out", "a column is qualified by its table only")
		}
		return &nameExpr{first.span.to(third.span), &first, &second, third}
	}
	return &nameExpr{first.span.to(second.span), nil, &first, second}
}

// rawIdent is ident without the warning about case, which function names do
// not get.
func (p *parser) rawIdent() ident {
	t := p.advance()
	return ident{p.span(t), t.text, t.kind == tokQuoted}
}

func (p *parser) warnCase(id ident) {
	if !id.quoted && !p.opts.streams && id.text() != id.name {
		id.warn("write it as \""+id.text()+"\" to keep its case, or in lower case", "unquoted name is read as %q", id.name)
	}
}

// callTail reads the arguments of a call.
func (p *parser) callTail(schema *ident, name ident) *callExpr {
	call := &callExpr{schema: schema, name: name, fn: name.span}
	if schema != nil {
		call.fn = schema.span.to(name.span)
	}
	p.expectOp("(")
	if p.isWord("distinct") {
		p.span(p.advance()).fatal("", "DISTINCT cannot be used in a call")
	}
	if p.isOp("*") && p.peek(1).isOp(")") && functions[name.name] == nil {
		call.args = append(call.args, &litExpr{span: p.span(p.advance()), bad: true}) // the function is what is wrong
		p.expectOp(")")
	} else {
		call.args = p.exprList(")")
	}
	call.span = p.since(call.fn.start)
	return call
}

// refuse reports a construct the language does not have and stands in for it.
func (p *parser) refuse(at span, hint, format string, args ...any) astExpr {
	at.fatal(hint, format, args...)
	return &litExpr{span: at, bad: true}
}
