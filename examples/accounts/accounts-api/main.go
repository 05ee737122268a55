// Opens accounts. Whoever asks gets the answer at once; everybody else hears of it by an event.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"log"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"
)

type account struct {
	ID      string `json:"id"`
	Owner   string `json:"owner"`
	Deposit int    `json:"deposit"`
	Credit  int    `json:"credit"`
}

type api struct {
	nc *nats.Conn
	js jetstream.JetStream
}

var errDeclined = errors.New("no account: the credit was declined")

func main() {
	url := nats.DefaultURL // localhost:4222: the sidecar has the credentials
	if set := os.Getenv("NATS_URL"); set != "" {
		url = set
	}
	nc, err := nats.Connect(url,
		nats.Name("accounts-api"),
		nats.RetryOnFailedConnect(true),
		nats.MaxReconnects(-1),
		nats.ReconnectBufSize(-1), // while the mesh is away callers are told so, and nothing is sent behind their backs
	)
	if err != nil {
		log.Fatal(err)
	}
	js, err := jetstream.New(nc)
	if err != nil {
		log.Fatal(err)
	}

	api := api{nc, js}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /accounts", api.post)
	mux.HandleFunc("GET /readyz", api.ready)
	serve(mux)
	if err := nc.Drain(); err != nil {
		log.Print(err)
	}
}

// post answers 201 once the mesh has stored the event. A caller without an answer sends the request again with the same
// Idempotency-Key, and the account is opened once.
func (a api) post(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), 5*time.Second)
	defer cancel()

	var opened account
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 64<<10)).Decode(&opened); err != nil || opened.Owner == "" {
		http.Error(w, `send JSON such as {"owner": "ada", "deposit": 100, "credit": 500}`, http.StatusBadRequest)
		return
	}
	opened.ID = r.Header.Get("Idempotency-Key")
	if opened.ID == "" {
		opened.ID = nuid.Next()
	}

	err := a.open(ctx, opened)
	switch {
	case errors.Is(err, errDeclined):
		http.Error(w, err.Error(), http.StatusUnprocessableEntity)
	case err != nil:
		log.Printf("account %s: %v", opened.ID, err)
		w.Header().Set("Retry-After", "1")
		http.Error(w, "try again with the same Idempotency-Key: "+err.Error(), http.StatusServiceUnavailable)
	default:
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusCreated)
		json.NewEncoder(w).Encode(opened)
	}
}

// open asks one service and waits for its answer, then tells the others and waits for nobody.
func (a api) open(ctx context.Context, opened account) error {
	body, err := json.Marshal(opened)
	if err != nil {
		return err
	}

	asking, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	answer, err := a.nc.RequestWithContext(asking, "credit.check", body)
	if err != nil {
		return err
	}
	var credit struct{ Approved bool }
	if err := json.Unmarshal(answer.Data, &credit); err != nil {
		return err
	}
	if !credit.Approved {
		return errDeclined
	}

	_, err = a.js.Publish(ctx, "accounts.opened", body, jetstream.WithMsgID(opened.ID))
	return err
}

func (a api) ready(w http.ResponseWriter, _ *http.Request) {
	if !a.nc.IsConnected() {
		http.Error(w, "the mesh is away", http.StatusServiceUnavailable)
	}
}

// serve answers until SIGTERM, and then finishes what it has begun.
func serve(handler http.Handler) {
	port := os.Getenv("PORT")
	if port == "" {
		port = "8080"
	}
	server := http.Server{Addr: ":" + port, Handler: handler, ReadHeaderTimeout: 5 * time.Second}
	stopping, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	go func() {
		if err := server.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
			log.Fatal(err)
		}
	}()
	<-stopping.Done()
	finishing, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := server.Shutdown(finishing); err != nil {
		log.Print(err)
	}
}
