// Which words of a question vote for a desk, and the scores of all, as `vote_views`.
// data: words, desks (names), weight (desks, words) and bias (desks).
// params: question, desk.
(params, data) => {
  const found = [...new Set(params.question.toLowerCase().match(/[a-z]+/g) ?? [])];
  if (!found.length) throw new RangeError("No word to vote yet: type a question.");
  if (found.length > 49) throw new RangeError("That's more than 49 words: ask something shorter.");
  const [weight, bias] = [data.weight.values, data.bias.values];
  const place = new Map(data.words.map((word, i) => [word, i]));
  const known = found.filter((word) => place.has(word));
  const vote = (desk, word) => (place.has(word) ? weight[desk * place.size + place.get(word)] : 0);
  const sum = (desk) => known.reduce((total, word) => total + vote(desk, word), 0);
  const root = Math.sqrt(Math.max(1, known.length));
  const scores = data.desks.map((_, desk) => sum(desk) / root + bias[desk]);
  const row = data.desks.indexOf(params.desk);
  const signed = (value) => {
    const size = Math.abs(value).toFixed(2);
    return (value < 0 && size !== "0.00" ? "-" : "+") + size;
  };
  const said = [
    `Votes for ${params.desk}: ${signed(sum(row))}, over the root of ${known.length}`,
    `known words: ${signed(sum(row) / root)}. For any text: ${signed(bias[row])}.`,
    `Score: ${signed(scores[row])}.\nIt says ${data.desks[scores.indexOf(Math.max(...scores))]}.`,
  ].join(" ");
  return {
    "Votes for the desk": {
      labels: found.map((word) => (place.has(word) ? word : `${word} (new)`)),
      values: { shape: [found.length], values: found.map((word) => vote(row, word)) },
    },
    "Score of each desk": { values: { shape: [scores.length], values: scores } },
    Sum: { text: said },
  };
};
