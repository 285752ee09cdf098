import java.io.OutputStream;
import java.io.PrintStream;
import java.util.Random;
import java.util.concurrent.atomic.AtomicLong;
import java.util.concurrent.atomic.AtomicLongArray;
import java.util.concurrent.atomic.LongAdder;
import org.apache.rocketmq.client.producer.LocalTransactionState;
import org.apache.rocketmq.client.producer.SendStatus;
import org.apache.rocketmq.client.producer.TransactionListener;
import org.apache.rocketmq.client.producer.TransactionMQProducer;
import org.apache.rocketmq.client.producer.TransactionSendResult;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageExt;

/**
 * The load of txmsg-bench for RocketMQ's transactional messages: half message, then the commit, which this client sends
 * without waiting for an answer. A thread for each caller, closed loop. What it prints is what txmsg-bench prints.
 *
 * <p>RocketLoad NAMESRV TOPIC CALLERS SECONDS WARMUP SIZE
 */
public class RocketLoad {
    static final int STEPS = 128; // buckets to a power of two: within 1 %
    static final AtomicLongArray histogram = new AtomicLongArray(64 * STEPS);
    static final LongAdder messages = new LongAdder(), failed = new LongAdder();
    static final AtomicLong longest = new AtomicLong();
    static volatile boolean measuring, ended;

    static int bucket(long ns) {
        if (ns < STEPS)
            return (int) ns;
        int shift = 63 - Long.numberOfLeadingZeros(ns) - 7;
        return (shift + 1) * STEPS + (int) (ns >>> shift) - STEPS;
    }

    static double valueOf(int bucket) {
        if (bucket < STEPS)
            return bucket;
        int shift = bucket / STEPS - 1;
        return ((double) (bucket % STEPS + STEPS) + 0.5) * Math.pow(2, shift);
    }

    static double at(double share, long count) {
        long wanted = Math.max(1, (long) Math.ceil(share * count)), seen = 0;
        for (int i = 0; i < histogram.length(); i++)
            if ((seen += histogram.get(i)) >= wanted)
                return valueOf(i) / 1e6;
        return 0;
    }

    static class AlwaysCommit implements TransactionListener {
        public LocalTransactionState executeLocalTransaction(Message m, Object arg) {
            return LocalTransactionState.COMMIT_MESSAGE;
        }

        public LocalTransactionState checkLocalTransaction(MessageExt m) {
            return LocalTransactionState.COMMIT_MESSAGE;
        }
    }

    static void send(TransactionMQProducer producer, String topic, byte[] body) throws Exception {
        TransactionSendResult r = producer.sendMessageInTransaction(new Message(topic, body), null);
        if (r.getSendStatus() != SendStatus.SEND_OK
                || r.getLocalTransactionState() != LocalTransactionState.COMMIT_MESSAGE)
            throw new IllegalStateException(r.toString());
    }

    /** Connections are made and most classes loaded before anything is counted. The client's time-out is for warm code. */
    static void sendFirst(TransactionMQProducer producer, String topic, byte[] body) throws Exception {
        long end = System.nanoTime() + 60_000_000_000L;
        for (;;) {
            try {
                send(producer, topic, body);
                return;
            } catch (Exception e) {
                if (System.nanoTime() > end)
                    throw e;
            }
        }
    }

    static void caller(TransactionMQProducer producer, String topic, byte[] body, PrintStream errors) {
        while (!ended) {
            long began = System.nanoTime();
            try {
                send(producer, topic, body);
            } catch (Exception e) {
                if (failed.sum() == 0)
                    e.printStackTrace(errors);
                failed.increment();
                continue;
            }
            long took = System.nanoTime() - began;
            if (measuring && !ended) {
                messages.increment();
                histogram.incrementAndGet(bucket(took));
                longest.accumulateAndGet(took, Math::max);
            }
        }
    }

    public static void main(String[] args) {
        PrintStream out = System.out, errors = System.err;
        System.setOut(new PrintStream(OutputStream.nullOutputStream())); // what the client's logging says
        System.setErr(System.out);
        try {
            run(args, out, errors);
        } catch (Exception e) {
            e.printStackTrace(errors);
            System.exit(1); // the client has threads that would go on
        }
        System.exit(messages.sum() > 0 && failed.sum() == 0 ? 0 : 1);
    }

    static void run(String[] args, PrintStream out, PrintStream errors) throws Exception {
        int callers = Integer.parseInt(args[2]);
        double seconds = Double.parseDouble(args[3]), warmup = Double.parseDouble(args[4]);
        byte[] body = new byte[Integer.parseInt(args[5])];
        new Random(1).nextBytes(body);
        TransactionMQProducer producer = new TransactionMQProducer("bench");
        producer.setNamesrvAddr(args[0]);
        producer.setTransactionListener(new AlwaysCommit());
        producer.setCompressMsgBodyOverHowmuch(Integer.MAX_VALUE);
        producer.setSendMsgTimeout(20000);
        producer.start();
        sendFirst(producer, args[1], body);
        Thread[] threads = new Thread[callers];
        for (int i = 0; i < callers; i++) {
            threads[i] = new Thread(() -> caller(producer, args[1], body, errors));
            threads[i].setDaemon(true);
            threads[i].start();
        }
        Thread.sleep((long) (warmup * 1000));
        measuring = true;
        long begin = System.nanoTime();
        out.println("measuring");
        out.flush();
        Thread.sleep((long) (seconds * 1000));
        ended = true;
        double elapsed = (System.nanoTime() - begin) / 1e9;
        out.println("measured");
        for (Thread t : threads)
            t.join(10000);
        long n = messages.sum();
        out.printf("{\"mode\": \"rocketmq\", \"callers\": %d, \"size\": %d, \"seconds\": %.3f, \"messages\": %d, "
                + "\"per_second\": %.1f, \"latency_ms\": {\"p50\": %.3f, \"p90\": %.3f, \"p99\": %.3f, \"p99.9\": %.3f, "
                + "\"max\": %.3f}, \"errors\": %d}%n", callers, body.length, elapsed, n, n / elapsed, at(0.5, n), at(0.9, n),
                at(0.99, n), at(0.999, n), longest.get() / 1e6, failed.sum());
        out.flush();
    }
}
