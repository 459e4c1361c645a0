//! Figures of rounds: medians, and ratios between daemons.

use serde::Serialize;

/// One round on one daemon.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Sample {
    /// Operations.
    pub ops: u64,
    /// Seconds.
    pub seconds: f64,
    /// Operations per second.
    pub ops_per_s: f64,
    /// Median latency of an operation in us.
    pub p50_us: f64,
    /// 99th percentile in us.
    pub p99_us: f64,
    /// 99.9th percentile in us.
    pub p999_us: f64,
    /// 10^6 bytes of file data per second; 0 where none moves.
    pub mb_per_s: f64,
    /// CPU time of the daemon per operation in us.
    pub cpu_us: f64,
    /// Context switches of the daemon per operation.
    pub switches: f64,
}

/// A ratio of medians' pairs.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Ratio {
    /// Median over the rounds.
    pub median: f64,
    /// Least.
    pub min: f64,
    /// Most.
    pub max: f64,
}

/// A daemon beside the base, round by round.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Ratios {
    /// Operations per second: more is better.
    pub ops: Ratio,
    /// CPU time per operation: less is better.
    pub cpu: Ratio,
    /// Median latency: less is better.
    pub p50: Ratio,
    /// 99th percentile of latency: less is better.
    pub p99: Ratio,
}

/// The middle value, or the mean of the two in the middle; 0 of none.
pub fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => 0.0,
        n if n % 2 == 1 => values[n / 2],
        n => (values[n / 2 - 1] + values[n / 2]) / 2.0,
    }
}

/// Each figure's median by itself.
pub fn median_sample(rounds: &[Sample]) -> Option<Sample> {
    let of = |figure: fn(&Sample) -> f64| median(rounds.iter().map(figure));
    (!rounds.is_empty()).then(|| Sample {
        ops: rounds.iter().map(|s| s.ops).sum::<u64>() / rounds.len() as u64,
        seconds: of(|s| s.seconds),
        ops_per_s: of(|s| s.ops_per_s),
        p50_us: of(|s| s.p50_us),
        p99_us: of(|s| s.p99_us),
        p999_us: of(|s| s.p999_us),
        mb_per_s: of(|s| s.mb_per_s),
        cpu_us: of(|s| s.cpu_us),
        switches: of(|s| s.switches),
    })
}

/// Rounds against the base's rounds of the same number.
pub fn ratios(rounds: &[Sample], base: &[Sample]) -> Option<Ratios> {
    let of = |figure: fn(&Sample) -> f64| {
        let pairs = rounds.iter().zip(base);
        let ratios = pairs.map(|(a, b)| figure(a) / figure(b).max(1e-9));
        let ratios: Vec<f64> = ratios.collect();
        Ratio {
            median: median(ratios.iter().copied()),
            min: ratios.iter().copied().fold(f64::INFINITY, f64::min),
            max: ratios.iter().copied().fold(0.0, f64::max),
        }
    };
    (!rounds.is_empty() && !base.is_empty()).then(|| Ratios {
        ops: of(|s| s.ops_per_s),
        cpu: of(|s| s.cpu_us),
        p50: of(|s| s.p50_us),
        p99: of(|s| s.p99_us),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(ops_per_s: f64) -> Sample {
        Sample {
            ops: 10,
            seconds: 1.0,
            ops_per_s,
            p50_us: 1.0,
            p99_us: 2.0,
            p999_us: 3.0,
            mb_per_s: 0.0,
            cpu_us: 1000.0 / ops_per_s,
            switches: 0.0,
        }
    }

    #[test]
    fn ratios_are_taken_round_by_round() {
        // A machine that slows down in the middle slows both.
        let a = [sample(200.0), sample(20.0), sample(210.0)];
        let b = [sample(100.0), sample(10.0), sample(100.0)];
        let ratios = ratios(&a, &b).expect("both have rounds");
        assert_eq!(ratios.ops.median, 2.0);
        assert_eq!((ratios.ops.min, ratios.ops.max), (2.0, 2.1));
        assert_eq!(ratios.cpu.median, 0.5);
        assert_eq!(median_sample(&a).expect("rounds").ops_per_s, 200.0);
        assert_eq!(median([1.0, 4.0, 2.0, 3.0].into_iter()), 2.5);
    }
}
