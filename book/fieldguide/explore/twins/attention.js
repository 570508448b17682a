// Softmax of one head's scores, as in `simple_attention`, and its entropy.
// data: scores {shape: [T, T], values} unscaled products, width, pieces.
// params: temperature, scaled (divide by sqrt(width)?), causal (hide the future?)
(params, data) => {
  const count = data.scores.shape[0], scores = data.scores.values;
  const scale = (params.scaled ? 1 / Math.sqrt(data.width) : 1) / params.temperature;
  const weights = new Float64Array(count * count);
  let entropy = 0;
  for (let i = 0; i < count; i++) {
    const end = params.causal ? i + 1 : count, row = i * count;
    let most = -Infinity, sum = 0;
    for (let j = 0; j < end; j++) most = Math.max(most, scale * scores[row + j]);
    for (let j = 0; j < end; j++) sum += weights[row + j] = Math.exp(scale * scores[row + j] - most);
    for (let j = 0; j < end; j++) {
      const w = (weights[row + j] /= sum);
      if (w > 0) entropy -= (w * Math.log(w)) / count;
    }
  }
  return {
    "Attention weights": { values: { shape: [count, count], values: weights }, rows: data.pieces, columns: data.pieces },
    "Mean entropy of a row": { value: { shape: [], values: [entropy] } },
  };
}
