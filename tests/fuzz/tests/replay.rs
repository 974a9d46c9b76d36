//! Every input in `corpus/` is given to its target: the seeds, and what once found something. The only test in this
//! file, since targets measure memory, and tests of one file run beside each other.

use std::fs;
use std::path::Path;

#[test]
fn every_known_input_holds() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    for (name, target) in cluster_fuzz::TARGETS {
        let folder = corpus.join(name);
        let mut inputs = 0;
        for entry in folder.read_dir().expect("every target has seeds") {
            let path = entry.expect("an entry").path();
            let input = fs::read(&path).expect("a file");
            // A failure names the file in the output of the test.
            println!("{}", path.display());
            target(&input);
            inputs += 1;
        }
        assert!(inputs > 0, "{} is empty", folder.display());
        // Cut and changed inputs are other inputs: a short look at what the fuzzer begins with.
        for (seeded, _, input) in cluster_fuzz::seeds::all() {
            if seeded == *name {
                for cut in 0..input.len().min(80) {
                    target(&input[..cut]);
                }
                for at in 0..input.len().min(200) {
                    let mut changed = input.clone();
                    changed[at] ^= 1 << (at % 8);
                    target(&changed);
                }
            }
        }
    }
}
