package syncrules

import "github.com/millrace/millrace"

// ident is a name as it was written.
type ident struct {
	span
	name   string // folded unless quoted
	quoted bool
}

// selectStmt is a SELECT.
type selectStmt struct {
	span
	items    []selectItem
	sources  []source
	where    astExpr // nil if absent
	distinct *span
}

// selectItem is an element of a select list.
type selectItem struct {
	span
	star  bool
	qual  *ident // of "t.*"
	expr  astExpr
	alias *ident
}

// name is what the result column is called: its alias, the plain column's name,
// or "" for another expression.
func (it selectItem) name() string {
	if it.alias != nil {
		return it.alias.name
	}
	if n, plain := it.expr.(*nameExpr); plain {
		return n.name.name
	}
	return ""
}

// source is an element of a FROM clause: a table, a derived table or a
// table-valued function.
type source struct {
	span
	schema *ident
	name   ident
	sub    *selectStmt // derived table
	call   *callExpr   // table-valued function
	alias  *ident
	cols   []ident // column names of a derived table
	on     astExpr
	// at is the part of the text that names the source, without its alias.
	at span
}

// astExpr is a parsed expression.
type astExpr interface{ at() span }

type (
	// litExpr is a literal. bad marks the place of an expression that was
	// refused: it has been reported already.
	litExpr struct {
		span
		val millrace.Value
		bad bool
	}
	// nameExpr is "name", "qual.name" or "schema.qual.name".
	nameExpr struct {
		span
		schema *ident
		qual   *ident
		name   ident
	}
	// callExpr is "name(args)" or "schema.name(args)".
	callExpr struct {
		span
		schema *ident
		name   ident
		args   []astExpr
		// fn covers the schema and the name.
		fn span
	}
	// unaryExpr is NOT x, -x or +x.
	unaryExpr struct {
		span
		op string
		x  astExpr
	}
	// binExpr is a binary operator; AND and OR in lower case.
	binExpr struct {
		span
		op   string
		l, r astExpr
	}
	castExpr struct {
		span
		x   astExpr
		typ ident
	}
	caseExpr struct {
		span
		base  astExpr // nil if absent
		whens []caseWhen
		other astExpr // nil if absent
	}
	betweenExpr struct {
		span
		x, lo, hi astExpr
		not       bool
	}
	// inExpr is x IN set, or x && set. The set is a list, a subquery or an
	// expression, which may turn out to name a CTE.
	inExpr struct {
		span
		x       astExpr
		not     bool
		overlap bool
		list    []astExpr
		isList  bool
		set     astExpr // a *subExpr if it is a subquery
	}
	// isExpr is x IS [NOT] NULL, TRUE or FALSE.
	isExpr struct {
		span
		x    astExpr
		not  bool
		what string
	}
	// subExpr is a SELECT in parentheses.
	subExpr struct {
		span
		sel *selectStmt
	}
)

type caseWhen struct{ cond, then astExpr }

func (e *litExpr) at() span     { return e.span }
func (e *nameExpr) at() span    { return e.span }
func (e *callExpr) at() span    { return e.span }
func (e *unaryExpr) at() span   { return e.span }
func (e *binExpr) at() span     { return e.span }
func (e *castExpr) at() span    { return e.span }
func (e *caseExpr) at() span    { return e.span }
func (e *betweenExpr) at() span { return e.span }
func (e *inExpr) at() span      { return e.span }
func (e *isExpr) at() span      { return e.span }
func (e *subExpr) at() span     { return e.span }
