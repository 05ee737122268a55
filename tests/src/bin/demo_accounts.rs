//! `make demo-accounts`: examples/accounts on the cluster, 1,000 accounts opened while the ledger is away and one pod of every
//! other program is killed, and the account of who has heard of them.

use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use eventmesh_tests::{accounts::Story, cluster::Cluster, paths};

const ACCOUNTS: u32 = 1000;
/// Fifty customers a second, so that every kill finds some of them at the counter.
const PAUSE: Duration = Duration::from_millis(20);

#[tokio::main]
async fn main() -> ExitCode {
    let begun = Instant::now();
    match demo(begun).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("demo-accounts: failed after {} s: {error:#}", begun.elapsed().as_secs());
            ExitCode::FAILURE
        }
    }
}

async fn demo(begun: Instant) -> Result<()> {
    let cluster = Cluster::connect().await?;
    let say = move |text: &str| println!("{:6.1} s  {text}", begun.elapsed().as_secs_f64());
    let story = Story::begin(&cluster, say).await?;
    let outcome = story.tell(ACCOUNTS, PAUSE).await?;
    say(&format!("the CRM was told of {} accounts more than once, as it may be after a kill", outcome.repeated));
    println!("{}", how_to_look_around(&cluster));
    println!("demo-accounts: {outcome}");
    ensure!(outcome.lost() == 0, "events were lost");
    Ok(())
}

fn how_to_look_around(cluster: &Cluster) -> String {
    let kubeconfig = cluster.kubeconfig().strip_prefix(paths::repository()).unwrap_or(cluster.kubeconfig()).display();
    format!(
        "
The cluster is still up. To look around:
  export KUBECONFIG=$PWD/{kubeconfig} PATH=$PWD/.build/bin:$PATH
  kubectl get eventmesh,pods -n bank                      # Topics, Subscriptions, the Bridge, and pods with two containers each
  kubectl -n bank describe pod ledger-0                   # what was injected
  kubectl -n bank port-forward service/accounts-api 8080:80 &
  curl -i localhost:8080/accounts -d '{{\"owner\": \"ada\", \"deposit\": 100, \"credit\": 500}}'
  kubectl get --raw /api/v1/namespaces/bank/services/ledger:80/proxy/seen
  kubectl -n bank scale statefulset ledger --replicas 0   # it misses nothing; look at the Subscription's column Pending
  kubectl delete -k examples/accounts                     # takes this story away
make down takes the cluster away.
"
    )
}
