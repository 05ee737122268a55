//! `eventmesh-volume-check DATA MEMBERS`: ends with 0 when the broker `POD_NAME` may start on its volume. Nothing but the
//! standard library runs here.

use std::{env, path::PathBuf, process::ExitCode};

use eventmesh_bridge::volume_check;
use eventmesh_wire::volume::REFUSED;

fn main() -> ExitCode {
    let paths: Vec<PathBuf> = env::args_os().skip(1).map(PathBuf::from).collect();
    let (Ok(broker), [data, members]) = (env::var("POD_NAME"), paths.as_slice()) else {
        eprintln!("usage: POD_NAME=BROKER eventmesh-volume-check DATA MEMBERS");
        return ExitCode::FAILURE;
    };
    // The kubelet shows the last lines of a container that has failed.
    match volume_check::run(data, members, &broker) {
        Ok(None) => ExitCode::SUCCESS,
        Ok(Some(why)) => {
            eprintln!("{why}");
            ExitCode::from(REFUSED)
        }
        Err(error) => {
            eprintln!("cannot see whether this volume is that of {broker}: {error}");
            ExitCode::FAILURE
        }
    }
}
