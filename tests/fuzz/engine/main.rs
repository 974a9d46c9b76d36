//! One fuzz target under libFuzzer, which brings `main` and the options. `PINFLEET_FUZZ_TARGET` names the target.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;

static TARGET: LazyLock<fn(&[u8])> = LazyLock::new(|| {
    let name = std::env::var("PINFLEET_FUZZ_TARGET").unwrap_or_default();
    let Some(target) = cluster_fuzz::target(&name) else {
        eprintln!("PINFLEET_FUZZ_TARGET is {name:?}, which is no fuzz target; see cluster_fuzz::TARGETS");
        std::process::exit(2);
    };
    target
});

fuzz_target!(init: { LazyLock::force(&TARGET); }, |input: &[u8]| TARGET(input));
