// A producer with a check endpoint (HTTP), and a consumer with an inbox (gRPC), through generated stubs; PostgreSQL for both.
package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	pb "txmsg/v1"
)

const tables = `SELECT pg_advisory_lock(1); -- others may be starting too
	CREATE TABLE IF NOT EXISTS txmsg_local_tx (id uuid PRIMARY KEY, decision text NOT NULL);
	CREATE TABLE IF NOT EXISTS orders (id uuid PRIMARY KEY, item text NOT NULL);
	CREATE TABLE IF NOT EXISTS inbox (message_id text PRIMARY KEY);
	CREATE TABLE IF NOT EXISTS sold (item text PRIMARY KEY, n int NOT NULL);
	SELECT pg_advisory_unlock(1)`

func env(name, otherwise string) string {
	if v := os.Getenv(name); v != "" {
		return v
	}
	return otherwise
}

func must(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

// --- the producer ---

func uuid7() string {
	var b [16]byte
	rand.Read(b[6:])
	for i, ms := 5, time.Now().UnixMilli(); i >= 0; i, ms = i-1, ms>>8 {
		b[i] = byte(ms)
	}
	b[6], b[8] = b[6]&0x0f|0x70, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// The same id each time, so a repeat is harmless.
func call(ctx context.Context, method func(ctx context.Context) error) error {
	for pause := 100 * time.Millisecond; ; pause *= 4 {
		limited, cancel := context.WithTimeout(ctx, 5*time.Second)
		err := method(limited)
		cancel()
		code := status.Code(err)
		if pause > 2*time.Second || code != codes.Unavailable && code != codes.DeadlineExceeded && code != codes.ResourceExhausted {
			return err
		}
		time.Sleep(pause)
	}
}

func order(ctx context.Context, db *pgxpool.Pool, item, how, id string) error {
	channel, err := grpc.NewClient(env("TXMSG_SERVER", "127.0.0.1:7400"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	must(err)
	txmsg, producer := pb.NewMessageServiceClient(channel), env("PRODUCER", "shop")
	message := &pb.Message{Topic: env("TOPIC", "orders"), ContentType: "text/plain", Body: []byte(item)}
	must(call(ctx, func(ctx context.Context) error {
		_, err := txmsg.Prepare(ctx, &pb.PrepareRequest{TransactionId: id, Producer: producer, Messages: []*pb.Message{message}})
		return err
	}))
	fmt.Println(id)
	local, err := db.Begin(ctx)
	must(err)
	defer local.Rollback(ctx)
	// First of all: if a check came before us, its row is there, and this fails.
	if _, err := local.Exec(ctx, "INSERT INTO txmsg_local_tx VALUES ($1, 'COMMITTED')", id); err != nil {
		return err
	}
	if _, err := local.Exec(ctx, "INSERT INTO orders VALUES ($1, $2)", id, item); err != nil {
		return err
	}
	switch how {
	case "crash":
		os.Exit(3)
	case "roll-back":
		must(local.Rollback(ctx))
		return call(ctx, func(ctx context.Context) error {
			_, err := txmsg.Cancel(ctx, &pb.CancelRequest{TransactionId: id, Producer: producer})
			return err
		})
	}
	if err := local.Commit(ctx); err != nil || how == "lose-confirm" {
		return err // if the commit failed send nothing: the check finds out
	}
	return call(ctx, func(ctx context.Context) error {
		_, err := txmsg.Confirm(ctx, &pb.ConfirmRequest{TransactionId: id, Producer: producer})
		return err
	})
}

func decide(ctx context.Context, db *pgxpool.Pool, id string) (decision string, err error) {
	err = pgx.BeginFunc(ctx, db, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "SET LOCAL lock_timeout = '1s'"); err != nil {
			return err
		}
		return tx.QueryRow(ctx, `INSERT INTO txmsg_local_tx VALUES ($1, 'ROLLED_BACK') ON CONFLICT (id)
			DO UPDATE SET decision = txmsg_local_tx.decision RETURNING decision`, id).Scan(&decision)
	})
	var pg *pgconn.PgError
	if errors.As(err, &pg) && pg.Code == "55P03" {
		return "UNKNOWN", nil // the local transaction still runs
	}
	return decision, err
}

func checks(db *pgxpool.Pool) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var question struct{ TransactionId string }
		if err := json.NewDecoder(io.LimitReader(r.Body, 1<<20)).Decode(&question); err != nil {
			http.Error(w, "not a check", http.StatusBadRequest)
			return
		}
		decision, err := decide(r.Context(), db, question.TransactionId)
		if err != nil { // no answer: asked again
			http.Error(w, "database", http.StatusServiceUnavailable)
			return
		}
		json.NewEncoder(w).Encode(map[string]string{"transactionId": question.TransactionId, "decision": decision})
	}
}

// --- the consumer ---

type consumer struct {
	pb.UnimplementedConsumerServiceServer
	db *pgxpool.Pool
}

func (c consumer) Deliver(ctx context.Context, r *pb.DeliverRequest) (*pb.DeliverResponse, error) {
	item := string(r.Message.Body)
	if item == "" { // a dead letter at once
		return &pb.DeliverResponse{Outcome: pb.DeliverResponse_OUTCOME_REJECT, Reason: "no item"}, nil
	}
	err := pgx.BeginFunc(ctx, c.db, func(tx pgx.Tx) error {
		entered, err := tx.Exec(ctx, "INSERT INTO inbox VALUES ($1) ON CONFLICT DO NOTHING", r.MessageId)
		if err != nil || entered.RowsAffected() == 0 {
			return err // it came before: nothing to do
		}
		_, err = tx.Exec(ctx, "INSERT INTO sold VALUES ($1, 1) ON CONFLICT (item) DO UPDATE SET n = sold.n + 1", item)
		return err
	})
	if err != nil {
		return &pb.DeliverResponse{Outcome: pb.DeliverResponse_OUTCOME_RETRY, Reason: "database"}, nil
	}
	return &pb.DeliverResponse{Outcome: pb.DeliverResponse_OUTCOME_ACK}, nil
}

func main() {
	ctx, args := context.Background(), append(os.Args[1:], "", "", "", "")
	db, err := pgxpool.New(ctx, env("DATABASE", "postgres://postgres@127.0.0.1:5432/shop")) // the primary, not a replica
	must(err)
	setup, err := db.Acquire(ctx)
	must(err)
	_, err = setup.Conn().PgConn().Exec(ctx, tables).ReadAll()
	must(err)
	setup.Release()
	address := "127.0.0.1:" + env("PORT", "9000")
	switch {
	case args[0] == "checks":
		must(http.ListenAndServe(address, checks(db)))
	case args[0] == "consumer":
		listener, err := net.Listen("tcp", address)
		must(err)
		server := grpc.NewServer()
		pb.RegisterConsumerServiceServer(server, consumer{db: db})
		must(server.Serve(listener))
	case args[0] == "order" && args[1] != "":
		id := args[3]
		if id == "" {
			id = uuid7()
		}
		must(order(ctx, db, args[1], args[2], id))
	default:
		log.Fatal("checks | consumer | order ITEM [commit|lose-confirm|roll-back|crash [ID]]")
	}
}
