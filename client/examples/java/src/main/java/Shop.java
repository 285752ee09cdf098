// A producer with a check endpoint, and a consumer with an inbox, through generated stubs; PostgreSQL for both.
import com.google.protobuf.ByteString;
import io.grpc.Grpc;
import io.grpc.InsecureServerCredentials;
import io.grpc.ManagedChannel;
import io.grpc.ManagedChannelBuilder;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import io.grpc.stub.StreamObserver;
import java.security.SecureRandom;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.util.Map;
import java.util.UUID;
import java.util.concurrent.TimeUnit;
import java.util.function.Supplier;
import txmsg.v1.*;

public class Shop {
    static final Map<String, String> ENV = System.getenv();

    static Connection database() throws SQLException { // the primary, not a replica
        return DriverManager.getConnection(ENV.getOrDefault("DATABASE", "jdbc:postgresql://127.0.0.1:5432/shop?user=postgres"));
    }

    static void execute(Connection db, String sql, Object... values) throws SQLException {
        try (PreparedStatement s = db.prepareStatement(sql)) {
            for (int i = 0; i < values.length; i++) s.setObject(i + 1, values[i]);
            s.execute();
        }
    }

    static void tables() throws SQLException {
        try (Connection db = database()) {
            execute(db, "SELECT pg_advisory_lock(1)"); // others may be starting too
            execute(db, "CREATE TABLE IF NOT EXISTS txmsg_local_tx (id uuid PRIMARY KEY, decision text NOT NULL)");
            execute(db, "CREATE TABLE IF NOT EXISTS orders (id uuid PRIMARY KEY, item text NOT NULL)");
            execute(db, "CREATE TABLE IF NOT EXISTS inbox (message_id text PRIMARY KEY)");
            execute(db, "CREATE TABLE IF NOT EXISTS sold (item text PRIMARY KEY, n int NOT NULL)");
        }
    }

    // --- the producer ---

    static UUID uuid7() {
        SecureRandom random = new SecureRandom();
        long high = System.currentTimeMillis() << 16 | 0x7000 | random.nextInt(0x1000);
        return new UUID(high, random.nextLong() >>> 2 | 0x8000000000000000L);
    }

    /** The same id each time, so a repeat is harmless. */
    static <T> T call(Supplier<T> method) throws InterruptedException {
        for (int pause = 100;; pause *= 4) {
            try {
                return method.get();
            } catch (StatusRuntimeException e) {
                Status.Code code = e.getStatus().getCode();
                if (pause > 2000 || code != Status.Code.UNAVAILABLE && code != Status.Code.DEADLINE_EXCEEDED
                        && code != Status.Code.RESOURCE_EXHAUSTED) throw e;
                Thread.sleep(pause);
            }
        }
    }

    static void order(String item, String how, UUID id) throws Exception {
        ManagedChannel channel = ManagedChannelBuilder.forTarget(ENV.getOrDefault("TXMSG_SERVER", "127.0.0.1:7400")).usePlaintext().build();
        Supplier<MessageServiceGrpc.MessageServiceBlockingStub> txmsg =
            () -> MessageServiceGrpc.newBlockingStub(channel).withDeadlineAfter(5, TimeUnit.SECONDS);
        Message message = Message.newBuilder().setTopic(ENV.getOrDefault("TOPIC", "orders")).setContentType("text/plain")
            .setBody(ByteString.copyFromUtf8(item)).build();
        String producer = ENV.getOrDefault("PRODUCER", "shop");
        call(() -> txmsg.get().prepare(PrepareRequest.newBuilder().setTransactionId(id.toString()).setProducer(producer)
            .addMessages(message).build()));
        System.out.println(id);
        try (Connection db = database()) {
            db.setAutoCommit(false);
            // First of all: if a check came before us, its row is there, and this fails.
            execute(db, "INSERT INTO txmsg_local_tx VALUES (?, 'COMMITTED')", id);
            execute(db, "INSERT INTO orders VALUES (?, ?)", id, item);
            if (how.equals("crash")) System.exit(3);
            if (how.equals("roll-back")) {
                db.rollback();
                call(() -> txmsg.get().cancel(CancelRequest.newBuilder().setTransactionId(id.toString()).setProducer(producer).build()));
                return;
            }
            db.commit(); // if this fails send nothing: the check finds out
        }
        if (!how.equals("lose-confirm"))
            call(() -> txmsg.get().confirm(ConfirmRequest.newBuilder().setTransactionId(id.toString()).setProducer(producer).build()));
        channel.shutdownNow();
    }

    static class Checks extends CheckServiceGrpc.CheckServiceImplBase {
        @Override
        public void check(CheckRequest request, StreamObserver<CheckResponse> observer) {
            CheckVerdict verdict;
            try (Connection db = database()) {
                execute(db, "SET lock_timeout = '1s'");
                try (PreparedStatement s = db.prepareStatement("INSERT INTO txmsg_local_tx VALUES (?, 'ROLLED_BACK') ON CONFLICT (id)"
                        + " DO UPDATE SET decision = txmsg_local_tx.decision RETURNING decision")) {
                    s.setObject(1, UUID.fromString(request.getTransactionId()));
                    ResultSet row = s.executeQuery();
                    row.next();
                    verdict = row.getString(1).equals("COMMITTED") ? CheckVerdict.CHECK_VERDICT_COMMITTED : CheckVerdict.CHECK_VERDICT_ROLLED_BACK;
                }
            } catch (SQLException e) {
                if (!"55P03".equals(e.getSQLState())) { // no answer: asked again
                    observer.onError(Status.UNAVAILABLE.withDescription("database").asException());
                    return;
                }
                verdict = CheckVerdict.CHECK_VERDICT_UNKNOWN; // the local transaction still runs
            }
            observer.onNext(CheckResponse.newBuilder().setTransactionId(request.getTransactionId()).setDecision(verdict).build());
            observer.onCompleted();
        }
    }

    // --- the consumer ---

    static class Consumer extends ConsumerServiceGrpc.ConsumerServiceImplBase {
        @Override
        public void deliver(DeliverRequest request, StreamObserver<DeliverResponse> observer) {
            DeliverResponse.Builder answer = DeliverResponse.newBuilder().setOutcome(DeliverResponse.Outcome.OUTCOME_ACK);
            String item = request.getMessage().getBody().toStringUtf8();
            if (item.isEmpty()) {
                answer.setOutcome(DeliverResponse.Outcome.OUTCOME_REJECT).setReason("no item"); // a dead letter at once
            } else try (Connection db = database()) {
                db.setAutoCommit(false);
                try (PreparedStatement s = db.prepareStatement("INSERT INTO inbox VALUES (?) ON CONFLICT DO NOTHING")) {
                    s.setString(1, request.getMessageId());
                    if (s.executeUpdate() == 1) // else it came before: nothing to do
                        execute(db, "INSERT INTO sold VALUES (?, 1) ON CONFLICT (item) DO UPDATE SET n = sold.n + 1", item);
                }
                db.commit();
            } catch (SQLException e) {
                answer.setOutcome(DeliverResponse.Outcome.OUTCOME_RETRY).setReason("database");
            }
            observer.onNext(answer.build());
            observer.onCompleted();
        }
    }

    static void serve(io.grpc.BindableService service) throws Exception {
        int port = Integer.parseInt(ENV.getOrDefault("PORT", "9000"));
        Grpc.newServerBuilderForPort(port, InsecureServerCredentials.create()).addService(service).build().start().awaitTermination();
    }

    public static void main(String[] args) throws Exception {
        tables();
        switch (args.length > 0 ? args[0] : "") {
            case "checks" -> serve(new Checks());
            case "consumer" -> serve(new Consumer());
            case "order" -> order(args[1], args.length > 2 ? args[2] : "", args.length > 3 ? UUID.fromString(args[3]) : uuid7());
            default -> System.err.println("checks | consumer | order ITEM [commit|lose-confirm|roll-back|crash [ID]]");
        }
        System.exit(0);
    }
}
