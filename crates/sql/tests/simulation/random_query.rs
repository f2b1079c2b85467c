//! Makes up continuous queries: trees of what the dialect has, over the streams and over one another.
//!
//! A tree grows from its leaves. Each operation takes one or two relations and makes a subquery over them, with
//! columns of its own whose types are known, so that nearly everything that comes out can be planned. What can't be the same in
//! any order is left out: ties that nothing decides, sums of what has been rounded.

use rand::Rng;
use rand::seq::IndexedRandom;
use rand_chacha::ChaCha8Rng;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Type {
    Int,
    Text,
    Bool,
    /// Quarters: sums of them are exact.
    Double,
    /// What a division gives: sums of them are not.
    Ratio,
    Time,
}

#[derive(Clone, Debug)]
struct Column {
    name: String,
    of: Type,
}

/// Something to read from.
#[derive(Clone, Debug)]
struct Relation {
    /// A SELECT.
    sql: String,
    columns: Vec<Column>,
    /// A column with event time, where there is one.
    time: Option<String>,
    /// The result changes, so it makes a view.
    changes: bool,
}

pub struct Generator<'a> {
    random: &'a mut ChaCha8Rng,
    names: usize,
    /// What earlier statements made.
    made: Vec<Relation>,
}

impl<'a> Generator<'a> {
    pub fn new(random: &'a mut ChaCha8Rng) -> Self {
        Self {
            random,
            names: 0,
            made: Vec::new(),
        }
    }

    /// Up to three statements, each over the streams and those before it.
    pub fn statements(&mut self) -> Vec<String> {
        let count = *[1, 1, 2, 3].choose(self.random).expect("some");
        (0..count).map(|number| self.statement(number)).collect()
    }

    fn statement(&mut self, number: usize) -> String {
        let depth = self.random.random_range(1..=4);
        let relation = self.tree(depth);
        let name = format!("q{number}");
        let is_stream = !relation.changes && self.chance(0.5);
        let kind = if is_stream { "STREAM" } else { "MATERIALIZED VIEW" };
        let statement = format!("CREATE {kind} {name} WITH (state = 'unbounded') AS {}", relation.sql);
        self.made.push(Relation {
            sql: format!("SELECT * FROM {name}"),
            // A view doesn't say how far it has come.
            time: relation.time.filter(|_| is_stream),
            ..relation
        });
        statement
    }

    fn tree(&mut self, depth: usize) -> Relation {
        if depth == 0 {
            return self.leaf();
        }
        let input = self.tree(depth - 1);
        match self.random.random_range(0..100) {
            0..12 => self.filter(input),
            12..24 => self.project(input),
            24..38 => self.aggregate(input),
            38..42 => self.distinct(input),
            42..56 if input.time.is_some() && !input.changes => self.window(input),
            56..64 => {
                let other = self.tree(depth - 1);
                self.union(input, other)
            }
            64..78 => {
                let other = self.tree(depth - 1);
                self.join(input, other)
            }
            78..83 => {
                let other = self.tree(depth - 1);
                self.membership(input, other)
            }
            83..91 => self.top(input),
            91..100 if input.changes => self.over(input),
            _ => self.aggregate(input),
        }
    }

    fn leaf(&mut self) -> Relation {
        if self.chance(0.4)
            && let Some(made) = self.made.choose(self.random)
        {
            return made.clone();
        }
        let name = if self.chance(0.6) { "a" } else { "b" };
        let columns = [
            ("id", Type::Int),
            ("k", Type::Text),
            ("j", Type::Text),
            ("n", Type::Int),
            ("x", Type::Double),
            ("f", Type::Bool),
            ("at", Type::Time),
        ];
        Relation {
            sql: format!("SELECT * FROM {name} WHERE id > 0"),
            columns: columns
                .map(|(name, of)| Column {
                    name: name.to_owned(),
                    of,
                })
                .to_vec(),
            time: Some("at".to_owned()),
            changes: false,
        }
    }

    fn filter(&mut self, input: Relation) -> Relation {
        let alias = self.name("t");
        let predicate = self.predicate(&input, None, 1);
        Relation {
            sql: format!("SELECT * FROM ({}) AS {alias} WHERE {predicate}", input.sql),
            ..input
        }
    }

    fn project(&mut self, input: Relation) -> Relation {
        let alias = self.name("t");
        let mut items = Vec::new();
        let mut columns = Vec::new();
        for _ in 0..self.random.random_range(1..=4) {
            let of = *[Type::Int, Type::Int, Type::Text, Type::Bool]
                .choose(self.random)
                .expect("some");
            let column = self.column(of);
            items.push(format!("{} AS {}", self.expression(&input, None, of), column.name));
            columns.push(column);
        }
        let mut time = None;
        if let Some(name) = input.time.filter(|_| self.chance(0.8)) {
            let column = self.column(Type::Time);
            items.push(format!("{name} AS {}", column.name));
            time = Some(column.name.clone());
            columns.push(column);
        }
        Relation {
            sql: format!("SELECT {} FROM ({}) AS {alias}", items.join(", "), input.sql),
            columns,
            time,
            changes: input.changes,
        }
    }

    fn aggregate(&mut self, input: Relation) -> Relation {
        let alias = self.name("t");
        let (mut items, mut columns, mut groups) = (Vec::new(), Vec::new(), Vec::new());
        for group in self.some_of(&input, 2) {
            let column = self.column(group.of);
            items.push(format!("{} AS {}", group.name, column.name));
            columns.push(column);
            groups.push(group.name);
        }
        self.aggregates(&input, &mut items, &mut columns);
        let group_by = match groups.is_empty() {
            true => String::new(),
            false => format!(" GROUP BY {}", groups.join(", ")),
        };
        // Over no rows at all a batch has a row of zeros, where there is none yet in a stream.
        let having = match (groups.is_empty(), self.chance(0.2)) {
            (true, _) => " HAVING count(*) > 0",
            (false, true) => " HAVING count(*) > 1",
            (false, false) => "",
        };
        Relation {
            sql: format!(
                "SELECT {} FROM ({}) AS {alias}{group_by}{having}",
                items.join(", "),
                input.sql
            ),
            columns,
            time: None,
            changes: true,
        }
    }

    fn aggregates(&mut self, input: &Relation, items: &mut Vec<String>, columns: &mut Vec<Column>) {
        for _ in 0..self.random.random_range(1..=3) {
            let argument = input.columns.choose(self.random).expect("some").clone();
            let name = &argument.name;
            let (call, of) = match (self.random.random_range(0..7), argument.of) {
                (0, _) => ("count(*)".to_owned(), Type::Int),
                (1, _) => (format!("count({name})"), Type::Int),
                (2, _) => (format!("count(DISTINCT {name})"), Type::Int),
                (3, Type::Int | Type::Double) => (format!("sum({name})"), argument.of),
                (4, Type::Int) => (format!("avg({name})"), Type::Ratio),
                (3 | 4, Type::Bool) => (format!("bool_or({name})"), Type::Bool),
                (5, Type::Int | Type::Text | Type::Double | Type::Ratio | Type::Time) => {
                    (format!("min({name})"), argument.of)
                }
                (_, Type::Int | Type::Text | Type::Double | Type::Ratio | Type::Time) => {
                    (format!("max({name})"), argument.of)
                }
                (_, Type::Bool) => (format!("bool_and({name})"), Type::Bool),
            };
            let filter = match self.chance(0.15) {
                true => format!(" FILTER (WHERE {})", self.predicate(input, None, 0)),
                false => String::new(),
            };
            let column = self.column(of);
            items.push(format!("{call}{filter} AS {}", column.name));
            columns.push(column);
        }
    }

    fn distinct(&mut self, input: Relation) -> Relation {
        let alias = self.name("t");
        let mut chosen = self.some_of(&input, 3);
        if chosen.is_empty() {
            chosen.push(input.columns[0].clone());
        }
        let names: Vec<_> = chosen.iter().map(|column| column.name.as_str()).collect();
        Relation {
            sql: format!("SELECT DISTINCT {} FROM ({}) AS {alias}", names.join(", "), input.sql),
            columns: chosen,
            time: None,
            changes: true,
        }
    }

    /// An aggregate over windows.
    fn window(&mut self, input: Relation) -> Relation {
        let time = input.time.clone().expect("a time");
        let (mut items, mut columns, mut groups) = (Vec::new(), Vec::new(), Vec::new());
        let mut names = Vec::new();
        for group in self
            .some_of(&input, 2)
            .into_iter()
            .filter(|group| group.of != Type::Time)
        {
            let column = self.column(group.of);
            items.push(format!("{} AS {}", group.name, column.name));
            columns.push(column);
            names.push(group.name.clone());
            groups.push(group.name);
        }
        let (alias, table) = (self.name("t"), format!("({})", input.sql));
        let call = match self.random.random_range(0..5) {
            0 | 1 => format!(
                "TUMBLE({table}, {time}, INTERVAL '{} seconds')",
                self.random.random_range(5..30)
            ),
            2 => {
                let slide = self.random.random_range(3..12);
                let size = slide + self.random.random_range(0..20);
                format!("HOP({table}, {time}, INTERVAL '{slide} seconds', INTERVAL '{size} seconds')")
            }
            3 => {
                let step = self.random.random_range(3..8);
                let size = step * self.random.random_range(1..4);
                format!("CUMULATE({table}, {time}, INTERVAL '{step} seconds', INTERVAL '{size} seconds')")
            }
            _ => {
                let by = match names.is_empty() {
                    true => String::new(),
                    false => format!(" PARTITION BY {}", names.join(", ")),
                };
                format!(
                    "SESSION({table}{by}, {time}, INTERVAL '{} seconds')",
                    self.random.random_range(2..9)
                )
            }
        };
        let (start, end) = (self.column(Type::Time), self.column(Type::Time));
        items.push(format!("window_start AS {}", start.name));
        items.push(format!("window_end AS {}", end.name));
        groups.extend(["window_start".to_owned(), "window_end".to_owned()]);
        self.aggregates(&input, &mut items, &mut columns);
        let time = Some(end.name.clone());
        columns.extend([start, end]);
        Relation {
            sql: format!(
                "SELECT {} FROM {call} AS {alias} GROUP BY {}",
                items.join(", "),
                groups.join(", ")
            ),
            columns,
            time,
            changes: false,
        }
    }

    fn union(&mut self, input: Relation, other: Relation) -> Relation {
        let (one, two) = (self.name("t"), self.name("t"));
        let (mut items, mut others, mut columns) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..self.random.random_range(1..=3) {
            let of = *[Type::Int, Type::Text, Type::Bool].choose(self.random).expect("some");
            let column = self.column(of);
            items.push(format!("{} AS {}", self.expression(&input, None, of), column.name));
            others.push(format!("{} AS {}", self.expression(&other, None, of), column.name));
            columns.push(column);
        }
        let all = self.chance(0.75);
        let mut time = None;
        if let (Some(at), Some(other_at)) = (&input.time, &other.time)
            && all
        {
            let column = self.column(Type::Time);
            items.push(format!("{at} AS {}", column.name));
            others.push(format!("{other_at} AS {}", column.name));
            time = Some(column.name.clone());
            columns.push(column);
        }
        let changes = input.changes || other.changes || !all;
        Relation {
            sql: format!(
                "SELECT {} FROM ({}) AS {one} UNION{} SELECT {} FROM ({}) AS {two}",
                items.join(", "),
                input.sql,
                if all { " ALL" } else { "" },
                others.join(", "),
                other.sql
            ),
            columns,
            time: time.filter(|_| !changes),
            changes,
        }
    }

    fn join(&mut self, input: Relation, other: Relation) -> Relation {
        let (one, two) = (self.name("t"), self.name("t"));
        let mut conditions = Vec::new();
        let of = *[Type::Text, Type::Int].choose(self.random).expect("some");
        conditions.push(format!(
            "{} = {}",
            self.expression_plain(&input, &one, of),
            self.expression_plain(&other, &two, of)
        ));
        let times = match (&input.time, &other.time) {
            (Some(at), Some(other_at)) if !input.changes && !other.changes && self.chance(0.7) => {
                let (before, after) = (self.random.random_range(0..8), self.random.random_range(0..12));
                conditions.push(format!(
                    "{two}.{other_at} BETWEEN {one}.{at} - INTERVAL '{before} seconds' AND {one}.{at} + INTERVAL '{after} seconds'"
                ));
                true
            }
            _ => false,
        };
        if self.chance(0.25) {
            conditions.push(format!(
                "{} < {}",
                self.expression_plain(&input, &one, Type::Int),
                self.expression_plain(&other, &two, Type::Int)
            ));
        }
        let kind = *["JOIN", "JOIN", "LEFT JOIN", "RIGHT JOIN", "FULL JOIN"]
            .choose(self.random)
            .expect("some");
        let (mut items, mut columns) = (Vec::new(), Vec::new());
        let mut time = None;
        for (relation, alias) in [(&input, &one), (&other, &two)] {
            for column in self.some_of(relation, 3) {
                let made = self.column(column.of);
                items.push(format!("{alias}.{} AS {}", column.name, made.name));
                if relation.time.as_ref() == Some(&column.name) && kind == "JOIN" && times {
                    time = Some(made.name.clone());
                }
                columns.push(made);
            }
        }
        if items.is_empty() {
            let column = self.column(input.columns[0].of);
            items.push(format!("{one}.{} AS {}", input.columns[0].name, column.name));
            columns.push(column);
        }
        Relation {
            sql: format!(
                "SELECT {} FROM ({}) AS {one} {kind} ({}) AS {two} ON {}",
                items.join(", "),
                input.sql,
                other.sql,
                conditions.join(" AND ")
            ),
            columns,
            time,
            // Without bounds, or over a result that changes, an outer join takes back what it said.
            changes: input.changes || other.changes || (kind != "JOIN" && !times),
        }
    }

    fn membership(&mut self, input: Relation, other: Relation) -> Relation {
        let (one, two) = (self.name("t"), self.name("t"));
        let of = *[Type::Text, Type::Int].choose(self.random).expect("some");
        let mine = self.expression_plain(&input, &one, of);
        let theirs = self.expression_plain(&other, &two, of);
        let condition = match self.random.random_range(0..3) {
            0 => format!("{mine} IN (SELECT {theirs} FROM ({}) AS {two})", other.sql),
            1 => format!(
                "EXISTS (SELECT 1 FROM ({}) AS {two} WHERE {theirs} = {mine})",
                other.sql
            ),
            _ => format!(
                "NOT EXISTS (SELECT 1 FROM ({}) AS {two} WHERE {theirs} = {mine})",
                other.sql
            ),
        };
        Relation {
            sql: format!("SELECT * FROM ({}) AS {one} WHERE {condition}", input.sql),
            columns: input.columns,
            time: None,
            changes: true,
        }
    }

    /// The first rows of groups, in an order of all columns.
    fn top(&mut self, input: Relation) -> Relation {
        let (alias, outer) = (self.name("t"), self.name("t"));
        let by: Vec<_> = self.some_of(&input, 1).into_iter().map(|column| column.name).collect();
        let mut order: Vec<String> = input.columns.iter().map(|column| column.name.clone()).collect();
        let first = self.random.random_range(0..order.len());
        order.swap(0, first);
        if self.chance(0.5) {
            order[0].push_str(" DESC");
        }
        let partition = match by.is_empty() {
            true => String::new(),
            false => format!("PARTITION BY {} ", by.join(", ")),
        };
        let place = self.column(Type::Int);
        let bound = self.random.random_range(1..=3);
        let mut columns = input.columns;
        let mut items: Vec<_> = columns.iter().map(|column| column.name.clone()).collect();
        if self.chance(0.5) {
            items.push(place.name.clone());
            columns.push(place.clone());
        }
        Relation {
            sql: format!(
                "SELECT {} FROM (SELECT *, row_number() OVER ({partition}ORDER BY {}) AS {} FROM ({}) AS {alias}) AS {outer} WHERE {} <= {bound}",
                items.join(", "),
                order.join(", "),
                place.name,
                input.sql,
                place.name
            ),
            columns,
            time: None,
            changes: true,
        }
    }

    /// Window functions over a result that changes.
    fn over(&mut self, input: Relation) -> Relation {
        let alias = self.name("t");
        let by: Vec<_> = self.some_of(&input, 1).into_iter().map(|column| column.name).collect();
        let partition = match by.is_empty() {
            true => String::new(),
            false => format!("PARTITION BY {}", by.join(", ")),
        };
        let order = input.columns.choose(self.random).expect("some").name.clone();
        let of_ints = input
            .columns
            .iter()
            .find(|column| column.of == Type::Int)
            .map(|column| column.name.clone());
        let call = match (self.random.random_range(0..4), of_ints) {
            (0, _) => format!("rank() OVER ({partition} ORDER BY {order})"),
            (1, _) => format!("count(*) OVER ({partition})"),
            (2, Some(n)) => format!("sum({n}) OVER ({partition})"),
            (_, Some(n)) => format!("max({n}) OVER ({partition} ORDER BY {order})"),
            (_, None) => format!("dense_rank() OVER ({partition} ORDER BY {order} DESC)"),
        };
        let column = self.column(Type::Int);
        let mut columns = input.columns;
        let items: Vec<_> = columns.iter().map(|column| column.name.clone()).collect();
        let sql = format!(
            "SELECT {}, {call} AS {} FROM ({}) AS {alias}",
            items.join(", "),
            column.name,
            input.sql
        );
        columns.push(column);
        Relation {
            sql,
            columns,
            time: None,
            changes: true,
        }
    }

    fn predicate(&mut self, input: &Relation, alias: Option<&str>, depth: usize) -> String {
        if depth > 0 && self.chance(0.4) {
            let (one, two) = (
                self.predicate(input, alias, depth - 1),
                self.predicate(input, alias, depth - 1),
            );
            let word = *["AND", "OR"].choose(self.random).expect("some");
            return format!("({one} {word} {two})");
        }
        let column = input.columns.choose(self.random).expect("some").clone();
        let name = qualified(alias, &column.name);
        match (column.of, self.random.random_range(0..4)) {
            (_, 0) => format!("{name} IS NOT NULL"),
            (Type::Int, 1) => format!("{name} % 2 = 0"),
            (Type::Int, 2) => format!("{name} BETWEEN -1 AND {}", self.random.random_range(0..20)),
            (Type::Int | Type::Double | Type::Ratio, _) => format!("{name} > {}", self.random.random_range(-2..3)),
            (Type::Text, 1) => format!("{name} IN ('a', 'b', '')"),
            (Type::Text, 2) => format!("{name} LIKE '%o%'"),
            (Type::Text, _) => format!("{name} <> 'b'"),
            (Type::Bool, 1) => format!("NOT {name}"),
            (Type::Bool, 2) => format!("{name} IS DISTINCT FROM TRUE"),
            (Type::Bool, _) => name,
            (Type::Time, _) => format!("{name} > TIMESTAMP '1969-12-31T23:59:10'"),
        }
    }

    /// An expression of a type, over a column of that type if there is one.
    fn expression(&mut self, input: &Relation, alias: Option<&str>, of: Type) -> String {
        let fitting: Vec<_> = input.columns.iter().filter(|column| column.of == of).cloned().collect();
        let Some(column) = fitting.choose(self.random) else {
            return self.converted(input, alias, of);
        };
        let name = qualified(alias, &column.name);
        match (of, self.random.random_range(0..6)) {
            (Type::Int, 0) => format!("{name} + 1"),
            (Type::Int, 1) => format!("coalesce({name}, 0)"),
            (Type::Int, 2) => format!("-{name}"),
            (Type::Int, 3) => format!("CASE WHEN {name} > 0 THEN {name} ELSE 0 END"),
            (Type::Text, 0) => format!("concat({name}, '!')"),
            (Type::Text, 1) => format!("coalesce({name}, '?')"),
            (Type::Text, 2) => format!("upper({name})"),
            (Type::Bool, 0) => format!("NOT {name}"),
            (Type::Bool, 1) => format!("{name} IS NULL"),
            _ => name,
        }
    }

    fn converted(&mut self, input: &Relation, alias: Option<&str>, of: Type) -> String {
        let column = input.columns.choose(self.random).expect("some").clone();
        let name = qualified(alias, &column.name);
        match (of, column.of) {
            (Type::Int, Type::Text) => format!("length({name})"),
            (Type::Int, _) => format!("CASE WHEN {name} IS NULL THEN 1 ELSE 2 END"),
            (Type::Text, Type::Int) => format!("CAST({name} AS TEXT)"),
            (Type::Text, _) => format!("CASE WHEN {name} IS NULL THEN 'a' ELSE 'c' END"),
            (Type::Bool, Type::Int) => format!("{name} > 0"),
            _ => format!("{name} IS NULL"),
        }
    }

    /// A side of an equality: mostly a column as it is.
    fn expression_plain(&mut self, input: &Relation, alias: &str, of: Type) -> String {
        let fitting: Vec<_> = input.columns.iter().filter(|column| column.of == of).cloned().collect();
        match fitting.choose(self.random) {
            Some(column) if self.chance(0.8) => qualified(Some(alias), &column.name),
            _ => self.expression(input, Some(alias), of),
        }
    }

    /// Up to `most` different columns.
    fn some_of(&mut self, input: &Relation, most: usize) -> Vec<Column> {
        let count = self.random.random_range(0..=most.min(input.columns.len()));
        input.columns.choose_multiple(self.random, count).cloned().collect()
    }

    fn column(&mut self, of: Type) -> Column {
        Column {
            name: self.name("c"),
            of,
        }
    }

    fn name(&mut self, prefix: &str) -> String {
        self.names += 1;
        format!("{prefix}{}", self.names)
    }

    fn chance(&mut self, of_one: f64) -> bool {
        self.random.random_bool(of_one)
    }
}

fn qualified(alias: Option<&str>, name: &str) -> String {
    match alias {
        Some(alias) => format!("{alias}.{name}"),
        None => name.to_owned(),
    }
}
