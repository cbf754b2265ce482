//! What a check says of itself, for whoever reads its captured output.

/// Prints one line: a seed, what was done, a figure.
#[expect(clippy::print_stdout, reason = "captured by the test runner, shown of a failed test and with --nocapture")]
pub fn announce(text: &str) {
    println!("{text}");
}
