//! The loop that measures. One JSON object a row: {"provider", "name", "n", "ns"}, ns the mean of one operation. Names are those of pkg/mls's benchmarks.

use std::hint::black_box;
use std::time::{Duration, Instant};

/// What the command line asks for: bench [-seconds S] [-sizes N,N] [-rows NAME,NAME].
pub struct Bench {
    budget: Duration,
    pub sizes: Vec<usize>,
    rows: Vec<String>,
    pub provider: &'static str,
}

/// However short the budget, an operation is done this many times.
const LEAST: u32 = 3;

/// All sizes' own rows are measured in a group of this many.
pub const MESSAGE_GROUP: usize = 10;

impl Bench {
    pub fn from_args() -> Result<Bench, String> {
        let mut bench = Bench { budget: Duration::from_secs(1), sizes: vec![2, 10, 100, 1000], rows: vec![], provider: "" };
        let mut args = std::env::args().skip(2);
        while let Some(flag) = args.next() {
            let value = args.next().ok_or("a flag without a value")?;
            match flag.as_str() {
                "-seconds" => bench.budget = Duration::from_secs_f64(value.parse().map_err(|e| format!("{e}"))?),
                "-sizes" => {
                    bench.sizes = value.split(',').map(|s| s.parse().map_err(|e| format!("{e}"))).collect::<Result<_, String>>()?;
                }
                "-rows" => bench.rows = value.split(',').map(String::from).collect(),
                _ => return Err(format!("unknown flag {flag}")),
            }
        }
        Ok(bench)
    }

    /// wants is whether any of the rows was asked for.
    pub fn wants(&self, names: &[&str]) -> bool {
        self.rows.is_empty() || names.iter().any(|n| self.rows.iter().any(|r| r == n))
    }

    /// row measures run. What setup does is not counted.
    pub fn row<S, R>(&self, name: &str, n: Option<usize>, mut setup: impl FnMut() -> S, mut run: impl FnMut(S) -> R) {
        if !self.wants(&[name]) {
            return;
        }
        let (mut count, mut spent) = (0u32, Duration::ZERO);
        while count < LEAST || spent < self.budget {
            let input = setup();
            let start = Instant::now();
            let output = black_box(run(black_box(input)));
            spent += start.elapsed();
            count += 1;
            drop(output);
        }
        let ns = spent.as_nanos() / u128::from(count);
        println!("{}", serde_json::json!({ "provider": self.provider, "name": name, "n": n.unwrap_or(0), "ns": ns as u64 }));
    }
}
