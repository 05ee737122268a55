//! libFuzzer's way into the target of this name.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| eventmesh_fuzz::claims::run(data));
