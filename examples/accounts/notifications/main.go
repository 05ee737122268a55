// Tells customers of their new accounts. It knows HTTP and nothing of a mesh: events come as CloudEvents, by POST.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"log"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

// outbox holds whom a message went to, on disk: an event may come a second time, a message must not.
type outbox struct {
	mu   sync.Mutex
	file *os.File
	seen map[string]bool
}

func main() {
	outbox, err := open(filepath.Join(env("DATA", "/data"), "sent"))
	if err != nil {
		log.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /events", outbox.event)
	mux.HandleFunc("GET /seen", outbox.list)
	mux.HandleFunc("GET /readyz", func(http.ResponseWriter, *http.Request) {})
	serve(mux)
}

// event answers 2xx when it is done with the event, which is then never sent again. 4xx and 5xx are tries that failed.
func (o *outbox) event(w http.ResponseWriter, r *http.Request) {
	var account struct{ ID string }
	if err := json.NewDecoder(r.Body).Decode(&account); err != nil || account.ID == "" {
		http.Error(w, "this is no account", http.StatusBadRequest)
		return
	}
	if err := o.send(account.ID); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

// send stands for a message to the customer.
func (o *outbox) send(id string) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.seen[id] {
		return nil
	}
	if _, err := o.file.WriteString(id + "\n"); err != nil {
		return err
	}
	o.seen[id] = true
	return o.file.Sync()
}

func (o *outbox) list(w http.ResponseWriter, _ *http.Request) {
	o.mu.Lock()
	defer o.mu.Unlock()
	ids := make([]string, 0, len(o.seen))
	for id := range o.seen {
		ids = append(ids, id)
	}
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(map[string]any{"accounts": ids})
}

func open(path string) (*outbox, error) {
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	outbox := &outbox{file: file, seen: map[string]bool{}}
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		outbox.seen[lines.Text()] = true
	}
	return outbox, lines.Err()
}

// serve answers until SIGTERM, and then finishes what it has begun.
func serve(handler http.Handler) {
	server := http.Server{Addr: ":" + env("PORT", "8080"), Handler: handler, ReadHeaderTimeout: 5 * time.Second}
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

func env(name, fallback string) string {
	if value := os.Getenv(name); value != "" {
		return value
	}
	return fallback
}
