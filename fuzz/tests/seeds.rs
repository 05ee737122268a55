//! Inputs that were found once, and others worth keeping: every target takes all of its seeds.

use std::{fs, path::Path};

use eventmesh_fuzz::TARGETS;

#[test]
fn every_target_takes_its_seeds() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds");
    for (name, run) in TARGETS {
        let seeds: Vec<_> = fs::read_dir(folder.join(name)).expect("a folder of seeds").flatten().collect();
        assert!(!seeds.is_empty(), "{name} has no seeds");
        for seed in seeds {
            println!("{}", seed.path().display());
            run(&fs::read(seed.path()).expect("readable"));
        }
    }
}
